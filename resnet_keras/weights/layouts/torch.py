"""Names of torchvision and timm: `layer1.0.conv1.weight`, `stages.0.blocks.0.norm1.weight`.

torch keeps kernels as (out, in, height, width) and those of dense layers as (out, in), so these
are always turned round, even where the shape would fit as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, get_args

import numpy as np

from resnet_keras.architectures import DEPTHS
from resnet_keras.records import Recipe
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.layouts.plan import Layer, layers_of
from resnet_keras.weights.layouts.recipes import SYMMETRIC
from resnet_keras.weights.layouts.table import Row, Table

_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Places within the stem of the d variants, whose ReLUs count too.
_DEEP_STEM = {"1": ("conv1.0", "conv1.1"), "2": ("conv1.3", "conv1.4"), "3": ("conv1.6", "bn1")}
# What torch.nn.DataParallel puts before every name.
_WRAPPER = "module."
_Variant = Literal["v1.5", "d", "v2", "v2d"]


def candidates() -> list[ResNetSpec]:
    """Returns the networks that torchvision and timm have, of the plain width."""
    return [ResNetSpec(depth, variant) for depth in DEPTHS for variant in get_args(_Variant)]


def recognises(names: Collection[str]) -> bool:
    """Returns whether the names are of this layout."""
    return "layer1.0.conv1.weight" in names or "stages.0.blocks.0.conv1.weight" in names


def tidy(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors without the prefix that a wrapper puts before all names."""
    if not all(name.startswith(_WRAPPER) for name in tensors):
        return dict(tensors)
    return {name.removeprefix(_WRAPPER): tensor for name, tensor in tensors.items()}


def usual(spec: ResNetSpec) -> tuple[Recipe, bool]:
    """Returns the usual recipe, and whether the files want blue, green, red."""
    # timm trained all its pre-activation networks on [-1, 1].
    return (SYMMETRIC if spec.preactivation else Recipe()), False


def table(spec: ResNetSpec, _: Collection[str]) -> Table:
    """Returns the name map of a network."""
    their_name = _v2_name if spec.preactivation else _plain_name
    rows: Table = {}
    for layer in layers_of(spec):
        theirs = their_name(layer, deep=spec.deep_stem)
        for variable, shape in layer.variables.items():
            torch_name = _NORM[variable] if layer.kind == "bn" else _weight(variable)
            turn = _turn(layer, variable, as_conv=spec.preactivation)
            rows[f"{layer.name}/{variable}"] = Row((f"{theirs}.{torch_name}",), shape, turn)
    return rows


def _weight(variable: str) -> str:
    return "weight" if variable == "kernel" else variable


def _turn(layer: Layer, variable: str, *, as_conv: bool) -> Callable[[np.ndarray], np.ndarray]:
    if variable != "kernel":
        return np.asarray
    if layer.kind == "conv":
        return _hwio
    return _dense_of_conv if as_conv else _dense


def _hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)


def _dense(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(1, 0)


def _dense_of_conv(kernel: np.ndarray) -> np.ndarray:
    """Returns the kernel of a head that timm writes as a 1x1 convolution."""
    return kernel.reshape(kernel.shape[0], -1).T if kernel.shape[2:] == (1, 1) else kernel


def _plain_name(layer: Layer, *, deep: bool) -> str:
    norm = layer.kind == "bn"
    if layer.kind == "dense":
        return "fc"
    if not layer.block:
        return _DEEP_STEM[layer.position][norm] if deep else ("conv1", "bn1")[norm]
    start = f"layer{layer.stage}.{layer.block - 1}"
    if layer.position == "shortcut":
        # In the d variants a pool, or an identity in its place, comes first.
        return f"{start}.downsample.{deep + norm}"
    return f"{start}.{'bn' if norm else 'conv'}{layer.position}"


def _v2_name(layer: Layer, *, deep: bool) -> str:
    kind = "norm" if layer.kind == "bn" else "conv"
    if layer.kind == "dense":
        return "head.fc"
    if layer.position == "norm":
        return "norm"
    if not layer.block:
        return f"stem.{kind}{layer.position}"
    start = f"stages.{layer.stage - 1}.blocks.{layer.block - 1}"
    if layer.position == "shortcut":
        return f"{start}.downsample.conv"
    if layer.kind == "bn":
        number = 1 if layer.position == "preact" else int(layer.position) + 1
        return f"{start}.norm{number}"
    return f"{start}.conv{layer.position}"
