"""`build_resnet`: from a spec, or from weights, to one flat Functional model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import keras

from resnet_keras.blocks import Blocks
from resnet_keras.layers import PREPROCESS, Preprocess
from resnet_keras.specs import Recipe, Record, ResNetSpec, Variant
from resnet_keras.weights import Weights, load_weights, read_weights

DEFAULT_CLASSES = 1000
InputShape = tuple[int | None, int | None, int]


def build_resnet(
    depth: int | None = None,
    *,
    weights: str | Path | Weights | None = None,
    num_classes: int | Literal["weights"] | None = "weights",
    input_shape: InputShape = (None, None, 3),
    variant: Variant | None = None,
    width: float | None = None,
    dropout: float = 0.0,
    zero_init_residual: bool = True,
) -> keras.Model:
    """Builds a ResNet that takes RGB pixels in [0, 255] and returns logits or features.

    The preprocessing that the weights were trained with is the first layer of the graph.
    Arguments that describe the network and are not given follow the weights; those that are
    given must agree with them.

    Args:
        depth: 18, 34, 50, 101 or 152; 50 if neither it nor weights are given.
        weights: A name of `list_weights()`, a `.safetensors` or `.onnx` file, a run folder, or
            None for He initialisation.
        num_classes: Number of logits. "weights" keeps those of the weights (1000 without
            weights); another number than theirs makes a new head; None leaves the head out, so
            that the model returns features `(batch, height / 32, width / 32, channels)`.
        input_shape: Height, width and channels of the pictures; None for any size.
        variant: "v1" or "v1.5" (see `ResNetSpec`); v1.5 if neither it nor weights are given.
        width: Multiplier of the stage widths; 1 if neither it nor weights are given.
        dropout: Share of the pooled features dropped in training, in [0, 1).
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

    Source: He et al. 2015, arXiv 1512.03385, table 1. Deviation: the default variant has the
    stride on the 3x3 convolution, as torchvision; the paper has it on the first 1x1.
    """
    source = read_weights(weights) if isinstance(weights, str | Path) else weights
    wanted = {"depth": depth, "variant": variant, "width": width}
    record = source.record if source else _random_record(wanted, input_shape[-1])
    _check_agreement(wanted, record)
    classes = _num_classes(num_classes, source)
    model = build_network(
        record,
        num_classes=classes,
        input_shape=input_shape,
        dropout=dropout,
        zero_init_residual=zero_init_residual,
    )
    if source:
        load_weights(model, source, skip=_skipped_head(source, classes))
    return model


def build_network(
    record: Record,
    *,
    num_classes: int | None,
    input_shape: InputShape = (None, None, 3),
    dropout: float = 0.0,
    zero_init_residual: bool = True,
) -> keras.Model:
    """Builds the network of a record with random weights; see `build_resnet`."""
    _check_shape(num_classes, input_shape, dropout)
    blocks = Blocks(record.spec, zero_init_residual)
    images = keras.Input(input_shape, name="image")
    x = Preprocess(record, name=PREPROCESS)(images)
    x = blocks.stem(x)
    for stage in range(1, len(record.spec.blocks) + 1):
        x = blocks.stage(x, stage)
    if num_classes is not None:
        x = _head(x, num_classes, dropout)
    return keras.Model(images, x, name=f"resnet{record.spec.depth}")


def _head(x: keras.KerasTensor, num_classes: int, dropout: float) -> keras.KerasTensor:
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="head_dropout")(x)
    # Whatever precision the network computes in, the loss sees float32 logits.
    return keras.layers.Dense(num_classes, dtype="float32", name="logits")(x)


def _random_record(wanted: Mapping[str, int | str | float | None], channels: int) -> Record:
    spec = ResNetSpec(**{name: value for name, value in wanted.items() if value is not None})  # type: ignore[arg-type]
    recipe = Recipe()
    if channels != len(recipe.mean):
        # No statistics are known for other channels: those of the three colours, averaged.
        mean, std = (sum(values) / len(values) for values in (recipe.mean, recipe.std))
        recipe = dataclasses.replace(recipe, mean=(mean,) * channels, std=(std,) * channels)
    return Record(spec=spec, recipe=recipe)


def _check_agreement(wanted: Mapping[str, int | str | float | None], record: Record) -> None:
    for name, value in wanted.items():
        theirs = getattr(record.spec, name)
        if value is not None and value != theirs:
            raise ValueError(
                f"`{name}` must agree with the weights {record.name!r}, which are of a network "
                f"with {name}={theirs!r}: leave it out or choose other weights. "
                f"Received: {name}={value!r}"
            )


def _check_shape(num_classes: int | None, input_shape: InputShape, dropout: float) -> None:
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
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must lie in [0, 1). Received: dropout={dropout!r}")


def _num_classes(wanted: int | Literal["weights"] | None, source: Weights | None) -> int | None:
    if wanted != "weights":
        return wanted
    if source is None:
        return DEFAULT_CLASSES
    return source.num_classes


def _skipped_head(source: Weights, num_classes: int | None) -> tuple[str, ...]:
    return () if source.num_classes == num_classes else ("logits",)
