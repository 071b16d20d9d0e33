"""What an activation of an ONNX graph is: what made it, and what was done to it since."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

Pads = tuple[int, int, int, int]  # top, left, bottom, right
NO_PADS: Pads = (0, 0, 0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What made an activation; two are the same only if they are one object.

    Args:
        label: The node, for messages.
        inputs: What it was made from.
    """

    label: str
    inputs: tuple[Value, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels of what it made."""
        return self.inputs[0].source.channels


@dataclasses.dataclass(frozen=True, eq=False)
class Picture(Source):
    """The input of the graph, with three colours."""

    @property
    def channels(self) -> int:
        """Number of channels of the input."""
        return 3


@dataclasses.dataclass(frozen=True, eq=False)
class Conv(Source):
    """A convolution; `kernel` is `(out, in, height, width)`, `pads` counts explicit padding too."""

    kernel: np.ndarray = dataclasses.field(kw_only=True)
    bias: np.ndarray = dataclasses.field(kw_only=True)
    strides: tuple[int, ...] = (1, 1)
    pads: Pads = NO_PADS
    groups: int = 1

    @property
    def channels(self) -> int:
        """Number of filters."""
        return int(self.kernel.shape[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Join(Source):
    """The sum of two activations."""


@dataclasses.dataclass(frozen=True, eq=False)
class MaxPool(Source):
    """A max pool; `pads` counts explicit padding too."""

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pads: Pads = NO_PADS


@dataclasses.dataclass(frozen=True, eq=False)
class HalvingPool(Source):
    """The mean of each two by two positions."""


@dataclasses.dataclass(frozen=True, eq=False)
class GlobalPool(Source):
    """The mean over all positions."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Source):
    """A dense layer; `kernel` is `(in, out)`."""

    kernel: np.ndarray = dataclasses.field(kw_only=True)
    bias: np.ndarray = dataclasses.field(kw_only=True)

    @property
    def channels(self) -> int:
        """Number of units."""
        return int(self.kernel.shape[1])


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """The tensors of a BatchNormalization node, each `(channels,)`, and its epsilon."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An activation: `relu((source + pre) * scale + post)`, padded, in some layout.

    Args:
        source: What made it.
        axes: Its layout, such as "NCHW"; "1" is an axis of size one.
        pre: Added first, `(channels,)` or `(1,)`.
        scale: Multiplies then; None as long as nothing was multiplied.
        post: Added last.
        batch_norm: The node, if a BatchNormalization is all that happened.
        relu: Whether a ReLU followed.
        pads: What was added around it, in pixels; zeros unless `below_pool`.
        below_pool: Whether the padding is right for a max pool only: negative, or edge pixels.
        order: For a picture, the channels of the input that its channels are, if rearranged.
        final: Whether a softmax followed.
    """

    source: Source
    axes: str
    pre: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1))
    scale: np.ndarray | None = None
    post: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1))
    batch_norm: BatchNorm | None = None
    relu: bool = False
    pads: Pads = NO_PADS
    below_pool: bool = False
    order: tuple[int, ...] | None = None
    final: bool = False

    @property
    def plain(self) -> bool:
        """Whether nothing but a change of layout was done to it."""
        return not (self.relu or self.final or self.affine or any(self.pads) or self.order)

    @property
    def affine(self) -> bool:
        """Whether something was added or multiplied."""
        return bool(self.scale is not None or self.pre.any() or self.post.any())

    def added(self, shift: np.ndarray) -> Value:
        """Returns the activation plus a constant."""
        if self.scale is None:
            return dataclasses.replace(self, pre=self.pre + shift, batch_norm=None)
        return dataclasses.replace(self, post=self.post + shift, batch_norm=None)

    def multiplied(self, factor: np.ndarray) -> Value:
        """Returns the activation times a constant."""
        scale = factor if self.scale is None else self.scale * factor
        return dataclasses.replace(self, scale=scale, post=self.post * factor, batch_norm=None)


def summed(first: Pads, second: Iterable[int]) -> Pads:
    """Returns the padding that two paddings are together."""
    top, left, bottom, right = (int(a) + int(b) for a, b in zip(first, second, strict=True))
    return top, left, bottom, right
