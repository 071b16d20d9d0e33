"""The layers with weights that a network has: their names, places and shapes, without a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from resnet_keras.architectures import ConvRole
from resnet_keras.specs import Place, ResNetSpec

# None stands for a size that the spec leaves open: input channels and classes.
Shape = tuple[int | None, ...]
_KERNELS = {"basic": (3, 3), "bottleneck": (1, 3, 1)}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Args:
        name: Name of the layer.
        kind: "conv", "bn" or "dense".
        shape: Of the kernel (height, width, input channels of a group, output channels), or the
            channels of a batch norm.
        position: Which one it is in its block or stem: "1" to "3", "shortcut", "preact", "norm"
            (behind the last block of pre-activation networks), or "" where there is but one.
        stage: Number of the stage, 0 for the stem and the head.
        block: Number of the block in its stage, 0 outside of blocks.
        bias: Whether a convolution has a bias.
    """

    name: str
    kind: Literal["conv", "bn", "dense"]
    shape: Shape
    position: str = ""
    stage: int = 0
    block: int = 0
    bias: bool = False

    @property
    def variables(self) -> dict[str, Shape]:
        """Shapes of the variables by their names, in the order of Keras."""
        if self.kind == "bn":
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            return dict.fromkeys(names, self.shape)
        bias = {"bias": self.shape[-1:]} if self.bias else {}
        return {"kernel": self.shape, **bias}


def layers_of(spec: ResNetSpec) -> Iterator[Layer]:
    """Yields the layers of an ImageNet network in their order, the projection behind its branch."""
    yield from _stem(spec)
    channels = spec.stem_filters
    for place in spec.places():
        yield from _block(spec, place, channels)
        channels = place.width * spec.expansion
    if spec.preactivation:
        yield Layer(f"stage{spec.end}_norm_bn", "bn", (channels,), "norm")
    yield Layer("logits", "dense", (channels, None), bias=True)


def _stem(spec: ResNetSpec) -> Iterator[Layer]:
    filters = spec.stem_filters
    half = filters // 2
    convs: dict[str, tuple[Shape, bool]] = {"": ((7, 7, None, filters), True)}
    if spec.deep_stem:
        shapes: list[Shape] = [(3, 3, None, half), (3, 3, half, half), (3, 3, half, filters)]
        convs = {str(number): (shape, number == 3) for number, shape in enumerate(shapes, 1)}
    for position, (shape, last) in convs.items():
        name = f"stem_{position}" if position else "stem"
        yield Layer(f"{name}_conv", "conv", shape, position, bias="stem" in spec.conv_bias)
        if not last or not spec.preactivation or spec.stem_norm:
            yield Layer(f"{name}_bn", "bn", shape[-1:], position)


def _block(spec: ResNetSpec, place: Place, channels: int) -> Iterator[Layer]:
    """Yields the layers of a block that reads so many channels."""
    if spec.preactivation:
        yield _layer(place, "preact", (channels,))
    convs = _branch(spec, place, channels)
    for number, shape in enumerate(convs, 1):
        last = number == len(convs)
        role: ConvRole = "last" if last else "inner"
        yield _layer(place, str(number), shape, bias=role in spec.conv_bias)
        if not (last and spec.preactivation):
            yield _layer(place, str(number), shape[-1:])
    filters = place.width * spec.expansion
    if spec.projects(place, changes=channels != filters):
        bias = "shortcut" in spec.conv_bias
        yield _layer(place, "shortcut", (1, 1, channels, filters), bias=bias)
        if not spec.preactivation:
            yield _layer(place, "shortcut", (filters,))


def _layer(place: Place, position: str, shape: Shape, *, bias: bool = False) -> Layer:
    """Returns a batch norm, or a convolution where the shape is that of a kernel."""
    kind: Literal["conv", "bn"] = "conv" if len(shape) > 1 else "bn"
    name = f"{place.name}_{position}_{kind}"
    return Layer(name, kind, shape, position, place.stage, place.number, bias)


def _branch(spec: ResNetSpec, place: Place, channels: int) -> list[Shape]:
    """Returns the shapes of the kernels of a branch."""
    filters = place.width * spec.expansion
    inner = place.width if spec.kind == "basic" else spec.inner_width(place.width)
    groups = 1 if spec.kind == "basic" else spec.groups
    kernels = _KERNELS[spec.kind]
    outputs = (inner,) * (len(kernels) - 1) + (filters,)
    inputs = (channels, *outputs[:-1])
    return [
        # Only the 3x3 convolutions of bottlenecks have groups.
        (side, side, before // groups if side == 3 else before, after)
        for side, before, after in zip(kernels, inputs, outputs, strict=True)
    ]
