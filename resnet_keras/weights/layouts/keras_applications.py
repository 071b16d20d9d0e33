"""Names of keras.applications: `conv2_block1_1_conv`, with `predictions` or `probs` as the head.

ResNet has biases and the stride on the first 1x1 and wants blue, green, red; ResNetV2 is the
pre-activation network of its kind; ResNeXt writes grouped convolutions as depthwise ones.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.records import Recipe
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.layouts.keras_names import FIRST_CONV, keras_table
from resnet_keras.weights.layouts.plan import Layer, layers_of
from resnet_keras.weights.layouts.recipes import CAFFE, SYMMETRIC
from resnet_keras.weights.layouts.table import Row, Table

# keras/src/applications/resnet.py
_EPSILON = 1.001e-5
_DEPTHS = (50, 101, 152)
_HEADS = ("predictions", "probs")
_DEPTHWISE, _SUM = "depthwise_kernel", "gconv/kernel"


def candidates() -> list[ResNetSpec]:
    """Returns the networks of keras.applications, ResNeXt with 32 groups of 4."""
    return [
        spec
        for depth in _DEPTHS
        for spec in (
            ResNetSpec(
                depth,
                "v1",
                bn_epsilon=_EPSILON,
                conv_bias=("stem", "shortcut", "inner", "last"),
            ),
            ResNetSpec(
                depth,
                "v2",
                bn_epsilon=_EPSILON,
                conv_bias=("stem", "shortcut", "last"),
                stride_block="last",
                pool_padding="zeros",
            ),
            ResNetSpec(depth, "v1.5", bn_epsilon=_EPSILON, groups=32, width_per_group=4),
        )
    ]


def recognises(names: Collection[str]) -> bool:
    """Returns whether the names are of this layout; among numbered ones its biases show it."""
    return "conv2_block1_1_conv/kernel" in names or {FIRST_CONV, "conv2d/bias"} <= set(names)


def usual(spec: ResNetSpec) -> tuple[Recipe, bool]:
    """Returns the usual recipe, and whether the files want blue, green, red."""
    if spec.variant == "v1":
        return CAFFE, True
    return (SYMMETRIC if spec.preactivation else Recipe()), False


def table(spec: ResNetSpec, names: Collection[str]) -> Table:
    """Returns the name map of a network."""
    head = next((head for head in _HEADS if f"{head}/kernel" in names), _HEADS[0])
    rows = keras_table(spec, names, lambda layer: head if layer.kind == "dense" else _name(layer))
    if spec.groups > 1:
        for layer in layers_of(spec):
            if layer.kind == "conv" and layer.block and layer.position == "2":
                rows[f"{layer.name}/kernel"] = _grouped_row(layer, names)
    return rows


def _name(layer: Layer) -> str:
    if layer.position == "norm":
        return "post_bn"
    if not layer.block:
        return f"conv1_{layer.kind}"
    position = "0" if layer.position == "shortcut" else layer.position
    return f"conv{layer.stage + 1}_block{layer.block}_{position}_{layer.kind}"


def _grouped_row(layer: Layer, names: Collection[str]) -> Row:
    depthwise = f"{_name(layer)}/{_DEPTHWISE}"
    # Older releases summed without a layer of its own.
    added = f"{_name(layer).removesuffix('conv')}{_SUM}"
    sources = (depthwise, added) if added in names else (depthwise,)
    return Row(sources, layer.shape, _grouped)


def _grouped(depthwise: np.ndarray, added: np.ndarray | None = None) -> np.ndarray:
    """Returns the grouped kernel that a depthwise one and the sum of its outputs stand for.

    Args:
        depthwise: `(height, width, channels, c)` for groups of c channels.
        added: `(1, 1, channels * c, channels)`: 1 where an output of the depthwise kernel is
            part of a channel, else 0; None where the sum is no layer.
    """
    height, width, channels, size = depthwise.shape
    if added is not None:
        _check_sum(added, channels, size)
    groups = depthwise.reshape(height, width, channels // size, size, size)
    return groups.transpose(0, 1, 3, 2, 4).reshape(height, width, size, channels)


def _check_sum(added: np.ndarray, channels: int, size: int) -> None:
    outputs, inputs = np.arange(channels)[:, None], np.arange(size)
    taken = (outputs // size * size + inputs) * size + outputs % size
    ones = added.shape == (1, 1, channels * size, channels) and added[0, 0, taken, outputs]
    if not np.all(ones == 1) or np.count_nonzero(added) != taken.size:
        raise WeightsError(
            "A layer `gconv` of the file does not sum the outputs of the depthwise convolution "
            "before it, as that of a ResNeXt does; the file is of another network."
        )
