"""`resnet-keras summary`: what a network is."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from typer import Argument, Option, echo

from resnet_keras.architectures import Shortcut, Stem, Variant
from resnet_keras.cli.common import Json, import_tensorflow, print_json


def summary(
    weights: Annotated[
        str | None,
        Argument(help="Weights by name, a file or a run folder; none for random weights."),
    ] = None,
    depth: Annotated[
        int | None, Option(help="18, 34, 50, 101, 152 or 200; with --stem cifar 6n + 2 or 9n + 2.")
    ] = None,
    variant: Annotated[Variant | None, Option(help="Order of the layers in a block.")] = None,
    stem: Annotated[Stem | None, Option(help="For large pictures, or those of CIFAR.")] = None,
    shortcut: Annotated[
        Shortcut | None, Option(help="Identity (A), projections (B, stage, C), or none.")
    ] = None,
    width: Annotated[float | None, Option(help="Multiplier of the stage widths.")] = None,
    groups: Annotated[int | None, Option(help="Groups of the 3x3 convolutions.")] = None,
    width_per_group: Annotated[int | None, Option(help="Channels a group in stage 1.")] = None,
    output_stride: Annotated[int | None, Option(help="32, 16 or 8.")] = None,
    image_size: Annotated[int | None, Option(min=1, help="In pixels.")] = None,
    through: Annotated[
        Literal["stem", "stage1", "stage2", "stage3", "stage4", "pool"] | None,
        Option(help="Freeze through this stage first."),
    ] = None,
    json: Json = False,
) -> None:
    """Shows stage, stride, shape, parameters, multiply-adds and state.

    Example: resnet-keras summary --depth 50 --image-size 224 --through stage3
    """
    import_tensorflow()
    from resnet_keras import build_resnet, freeze, stage_summary

    model = build_resnet(
        depth,
        weights=weights,
        variant=variant,
        stem=stem,
        shortcut=shortcut,
        width=width,
        groups=groups,
        width_per_group=width_per_group,
        output_stride=output_stride,
    )
    if through:
        freeze(model, through=through)
    rows = stage_summary(model, image_size)
    print_json([dataclasses.asdict(row) for row in rows]) if json else echo(str(rows))
