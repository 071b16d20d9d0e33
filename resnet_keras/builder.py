"""`build_resnet`: from a spec, or from weights, to one flat Functional model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras

from resnet_keras.architectures import (
    Activation,
    Block,
    ConvRole,
    Normalization,
    Pooling,
    Shortcut,
    Stem,
    Variant,
)
from resnet_keras.blocks import Blocks
from resnet_keras.head import apply_head, pooled
from resnet_keras.layers import PREPROCESS, Preprocess, functional, record_of
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import (
    Weights,
    head_layers,
    load_weights,
    read_weights,
    resolve,
    select_classes,
)
from resnet_keras.weights.adapt import Classes
from resnet_keras.weights.assign import FREE_FIELDS

DEFAULT_CLASSES = 1000
InputShape = tuple[int | None, int | None, int]


def build_resnet(
    depth: int | None = None,
    *,
    weights: str | Path | Weights | None = None,
    num_classes: int | Literal["weights"] | None = "weights",
    keep_classes: Classes | None = None,
    input_shape: InputShape = (None, None, 3),
    variant: Variant | None = None,
    block: Block | None = None,
    stem: Stem | None = None,
    shortcut: Shortcut | None = None,
    width: float | None = None,
    groups: int | None = None,
    width_per_group: int | None = None,
    conv_bias: tuple[ConvRole, ...] | None = None,
    output_stride: int | None = None,
    last_stage: int | None = None,
    pooling: Pooling | None = None,
    head: tuple[int, ...] | None = None,
    head_normalization: Normalization | None = None,
    head_activation: Activation | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    zero_init_residual: bool = True,
) -> keras.Model:
    """Builds a ResNet that takes RGB pixels in [0, 255] and returns logits or features.

    The preprocessing that the weights were trained with is the first layer of the graph.
    Arguments that describe the network and are not given follow the weights; those that are
    given must agree with them, but for `output_stride`, which no weights depend on, for
    `last_stage`, which leaves out the weights of later stages, and for what describes the head.
    Where `last_stage` or the head differs, the head is new.

    Args:
        depth: 18, 34, 50, 101, 152 or 200; with `stem="cifar"` 6n + 2 or 9n + 2; 50 if neither
            it nor weights are given.
        weights: "imagenet" (torchvision's first, for the depths 18 to 152), a name of
            `list_weights()`, a file (`.safetensors`, `.h5`, `.pth`, `.onnx`), a run folder, or
            None for He initialisation.
        num_classes: Number of logits. "weights" keeps those of the weights (1000 without
            weights); another number than theirs makes a new head; None leaves the head out, so
            that the model returns features `(batch, height / 32, width / 32, channels)`, or
            larger ones, see `output_stride` and `last_stage`.
        keep_classes: Classes of the weights whose rows of the head are kept: their names, or new
            names and for each the class or classes that it stands for. Decides `num_classes`.
        input_shape: Height, width and channels of the pictures; None for any size. Weights for
            another number of channels are summed (one) or repeated (more).
        variant: "v1", "v1.5", "v2", "d" or "v2d"; v1.5 if neither it nor weights are given. This
            and what follows is described in full by `ResNetSpec`.
        block: "basic" or "bottleneck"; by default the one that belongs to the depth.
        stem: "imagenet" or "cifar".
        shortcut: "A" (identity with zero channels), "B" (projection where the channels change),
            "stage" (and in each first block), "C" (projection everywhere), "none" (plain).
        width: Multiplier of the stage widths, in (0, 16].
        groups: Groups of the 3x3 convolutions of bottlenecks (ResNeXt).
        width_per_group: Channels a group, at a stage width of 64 (ResNeXt, wide ResNet).
        conv_bias: Convolutions that have a bias: any of "stem", "shortcut", "inner", "last".
        output_stride: 32, 16 or 8; strides beyond it become dilation.
        last_stage: The stage that the backbone ends with, 1 to 4, or 1 to 3 with the CIFAR stem;
            the head sees its features. With pre-activation, the norm and ReLU with which the
            next stage of the weights began become the last ones.
        pooling: "avg", "max" or "both" side by side.
        head: Units of hidden layers between pooling and logits.
        head_normalization: What normalises the inputs of each dense layer of the head: "none",
            "batch" or "layer".
        head_activation: What follows each hidden layer: "relu", "gelu" or "silu".
        dropout: Share of the inputs of each dense layer dropped in training, in [0, 1).
        stochastic_depth: Share of the pictures for which the last block's branch is dropped in
            training, in [0, 1); linearly less in the blocks before.
        zero_init_residual: Whether the last gamma of each branch starts at 0 (random weights).

    Returns:
        A flat Functional `keras.Model`; each layer is reachable by its name.

    Raises:
        ValueError: If an argument is out of range or contradicts the weights.
        WeightsError: If the weights cannot be read or do not fit completely.

    Example:
        >>> model = build_resnet(18, num_classes=5, width=0.25)
        >>> model.output.shape
        (None, 5)
        >>> build_resnet(20, stem="cifar", shortcut="A", num_classes=10).count_params()
        271098

    Source: He et al. 2015, arXiv 1512.03385, tables 1 and 6, and the papers that `ResNetSpec` and
    `Blocks` name. Deviation: the default variant has the stride on the 3x3 convolution, as
    torchvision; the paper has it on the first 1x1.
    """
    if isinstance(weights, str | Path):
        source: Weights | None = read_weights(resolve(weights, depth))
    else:
        source = weights
    if keep_classes is not None:
        source = _selected(source, keep_classes, num_classes)
    wanted = _given(
        depth=depth,
        variant=variant,
        block=block,
        stem=stem,
        shortcut=shortcut,
        width=width,
        groups=groups,
        width_per_group=width_per_group,
        conv_bias=conv_bias,
        output_stride=output_stride,
        last_stage=last_stage,
        pooling=pooling,
        head=head,
        head_normalization=head_normalization,
        head_activation=head_activation,
    )
    classes = _num_classes(num_classes, source)
    model = build_network(
        _record(wanted, source, input_shape[-1]),
        num_classes=classes,
        input_shape=input_shape,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        zero_init_residual=zero_init_residual,
    )
    if source:
        load_weights(model, source, skip=_skipped_head(model, source, classes))
    return model


def build_network(
    record: Record,
    *,
    num_classes: int | None,
    input_shape: InputShape = (None, None, 3),
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    zero_init_residual: bool = True,
) -> keras.Model:
    """Builds the network of a record with random weights; see `build_resnet`."""
    _check_shape(num_classes, input_shape)
    _check_share("dropout", dropout)
    _check_share("stochastic_depth", stochastic_depth)
    spec = record.spec
    blocks = Blocks(spec, zero_init_residual, stochastic_depth)
    images = keras.Input(input_shape, name="image")
    x = Preprocess(record, name=PREPROCESS)(images)
    x = blocks.stages(blocks.stem(x))
    if num_classes is not None:
        x = apply_head(pooled(x, spec.pooling), spec, num_classes, dropout=dropout)
    return functional(images, x, name=f"resnet{spec.depth}")


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _record(wanted: Mapping[str, Any], source: Weights | None, channels: int) -> Record:
    """Returns the record of the network: that of the weights, or of random ones."""
    if source is None:
        return Record(ResNetSpec(**wanted), _recipe(channels))
    record = source.record
    for name in wanted.keys() - {*FREE_FIELDS, "conv_bias"}:
        theirs = getattr(record.spec, name)
        if wanted[name] != theirs:
            raise ValueError(
                f"`{name}` must agree with the weights {record.name!r}, which are of a network "
                f"with {name}={theirs!r}: leave it out or choose other weights. "
                f"Received: {name}={wanted[name]!r}"
            )
    spec = dataclasses.replace(record.spec, **wanted)
    if spec.end > record.spec.end:
        raise ValueError(
            f"`last_stage` must be one that the weights {record.name!r} have, which end at "
            f"stage{record.spec.end}. Received: last_stage={spec.end}"
        )
    record = dataclasses.replace(record, spec=spec)
    if len(record.recipe.mean) == channels:
        return record
    return dataclasses.replace(record, recipe=_recipe(channels))  # until the weights bring theirs


def _recipe(channels: int) -> Recipe:
    """Returns the recipe of random weights."""
    recipe = Recipe()
    if channels == len(recipe.mean):
        return recipe
    # No statistics are known for other channels: those of the three colours, averaged.
    mean, std = (sum(values) / len(values) for values in (recipe.mean, recipe.std))
    return dataclasses.replace(recipe, mean=(mean,) * channels, std=(std,) * channels)


def _selected(source: Weights | None, classes: Classes, num_classes: int | str | None) -> Weights:
    if source is None or num_classes != "weights":
        raise ValueError(
            "`keep_classes` needs weights and decides `num_classes`. Received: "
            f"weights={source and source.record.name!r}, num_classes={num_classes!r}"
        )
    return select_classes(source, classes)


def _check_shape(num_classes: int | None, input_shape: InputShape) -> None:
    known = isinstance(num_classes, int) and not isinstance(num_classes, bool)
    if num_classes is not None and not (known and num_classes >= 1):
        raise ValueError(
            f"`num_classes` must be a positive integer or None. Received: {num_classes!r}"
        )
    if len(input_shape) != 3 or not isinstance(input_shape[2], int) or input_shape[2] < 1:
        raise ValueError(
            "`input_shape` must be (height, width, channels) with a number of channels. "
            f"Received: input_shape={input_shape!r}"
        )


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={share!r}")


def _num_classes(wanted: int | Literal["weights"] | None, source: Weights | None) -> int | None:
    if wanted != "weights":
        return wanted
    if source is None:
        return DEFAULT_CLASSES
    return source.num_classes


def _skipped_head(model: keras.Model, source: Weights, num_classes: int | None) -> tuple[str, ...]:
    """Returns the layers of the head if that of the weights is not the model's."""
    same = record_of(model).spec.head_design == source.record.spec.head_design
    return () if same and source.num_classes == num_classes else head_layers(model, source)
