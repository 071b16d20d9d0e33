"""Names of KerasHub: `stack0_block0_1_conv`, or `conv2d_3` where the file only has numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

from resnet_keras.architectures import DEPTHS
from resnet_keras.records import Recipe
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.layouts.keras_names import FIRST_CONV, keras_table
from resnet_keras.weights.layouts.plan import Layer
from resnet_keras.weights.layouts.recipes import SYMMETRIC
from resnet_keras.weights.layouts.table import Table

_Variant = Literal["v1.5", "d", "v2"]


def candidates() -> list[ResNetSpec]:
    """Returns the networks that KerasHub builds from its presets and from torch's weights."""
    plain = [ResNetSpec(depth, variant) for depth in DEPTHS for variant in get_args(_Variant)]
    # PaddleClas, whose weights these are, projects in the first stage of basic blocks too, and has
    # another distribution of the blocks at depth 200.
    paddle = [ResNetSpec(depth, "d", shortcut="stage") for depth in (18, 34)]
    return [*plain, *paddle, ResNetSpec(200, "d", stage_blocks=(3, 12, 48, 3))]


def recognises(names: Collection[str]) -> bool:
    """Returns whether the names are of this layout."""
    return "stack0_block0_1_conv/kernel" in names or FIRST_CONV in names


def usual(spec: ResNetSpec) -> tuple[Recipe, bool]:
    """Returns the usual recipe, and whether the files want blue, green, red."""
    return (SYMMETRIC if spec.preactivation else Recipe()), False


def table(spec: ResNetSpec, names: Collection[str]) -> Table:
    """Returns the name map of a network."""
    return keras_table(spec, names, _name)


def _name(layer: Layer) -> str:
    if layer.kind == "dense":
        return "predictions"
    if layer.position == "norm":
        return "post_bn"
    if not layer.block:
        return f"conv{layer.position or 1}_{layer.kind}"
    position = {"shortcut": "0", "preact": "pre_activation"}.get(layer.position, layer.position)
    return f"stack{layer.stage - 1}_block{layer.block - 1}_{position}_{layer.kind}"
