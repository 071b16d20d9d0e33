"""`resnet-keras summary` and `weights`: what a network and its weights are."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import typer
from typer import Argument, Option, echo

from resnet_keras.cli.common import Json, import_tensorflow, print_json

weights_app = typer.Typer(help="Weights that are known by name.", no_args_is_help=True)


def summary(
    weights: Annotated[
        str | None,
        Argument(help="Weights by name, a file or a run folder; none for random weights."),
    ] = None,
    depth: Annotated[int | None, Option(help="18, 34, 50, 101 or 152.")] = None,
    variant: Annotated[Literal["v1", "v1.5"] | None, Option(help="Place of the stride.")] = None,
    width: Annotated[float | None, Option(help="Multiplier of the stage widths.")] = None,
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

    model = build_resnet(depth, weights=weights, variant=variant, width=width)
    if through:
        freeze(model, through=through)
    rows = stage_summary(model, image_size)
    print_json([dataclasses.asdict(row) for row in rows]) if json else echo(str(rows))


@weights_app.command("list")
def list_command(json: Json = False) -> None:
    """Lists the weights that are known by name."""
    from resnet_keras import list_weights, weights_info

    entries = [weights_info(name) for name in list_weights()]
    if json:
        print_json([entry.to_dict() for entry in entries])
        return
    for entry in entries:
        spec = entry.record.spec
        network = f"ResNet-{spec.depth} {spec.variant}, width {spec.width:g}"
        echo(f"{entry.record.name:16}{network:30}{entry.parameters:>12,}  {entry.record.licence}")


@weights_app.command("info")
def info(
    name: Annotated[str, Argument(help="A name of `weights list`.", show_default=False)],
    json: Json = False,
) -> None:
    """Shows what is known about weights: network, recipe, classes, source and licence."""
    from resnet_keras import weights_info

    facts = weights_info(name).to_dict()
    if json:
        print_json(facts)
        return
    record = facts.pop("record")
    for group in (record.pop("spec"), record.pop("recipe"), record, facts):
        for key, value in group.items():
            echo(f"{key:16}{value}")
