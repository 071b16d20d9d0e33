"""The layers of heads in NumPy, for many heads of one shape at once.

Arrays have the head as their first axis: inputs are `(heads, pictures, channels)`, or `(1, ...)`
where all heads see the same. A head is so small that a step of it takes Keras longer to begin than
to compute; here one step serves all of them. What they compute, backwards as well, is what the
layers of Keras compute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
import scipy.special

Array = np.ndarray
_PEAK = np.float32(1 / np.sqrt(2 * np.pi))  # of the normal density


@dataclasses.dataclass(frozen=True)
class Constants:
    """What the layers of the project have in common.

    Args:
        bn_momentum: Share of the moving statistics that batch norm keeps.
        bn_epsilon: What batch norm adds to the variance.
        ln_epsilon: What layer norm adds to it.
        sgd_momentum: That of SGD.
    """

    bn_momentum: float
    bn_epsilon: float
    ln_epsilon: float
    sgd_momentum: float


class Operation(Protocol):
    """One layer of all heads.

    Attributes:
        weights: What trains, by name; each has the head as its first axis.
        gradients: Of the weights, after `backward`.
    """

    weights: dict[str, Array]
    gradients: dict[str, Array]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the output."""

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input, given that of the output of the last `forward`."""


class Dense:
    """`keras.layers.Dense`.

    Args:
        kernel: `(heads, channels, units)`.
        first: Whether nothing before it trains, so that its input needs no gradient.
    """

    def __init__(self, kernel: Array, *, first: bool) -> None:
        bias = np.zeros((len(kernel), 1, kernel.shape[2]), np.float32)
        self.weights = {"kernel": kernel, "bias": bias}
        self.gradients: dict[str, Array] = {}
        self._first = first

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns `x @ kernel + bias`."""
        self._x = x
        return np.asarray(x @ self.weights["kernel"] + self.weights["bias"])

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input; an empty one if it is not needed."""
        self.gradients["kernel"] = self._x.swapaxes(1, 2) @ gradient
        self.gradients["bias"] = gradient.sum(axis=1, keepdims=True)
        if self._first:
            return gradient[:, :, :0]
        return np.asarray(gradient @ self.weights["kernel"].swapaxes(1, 2))


class _Normalization:
    """Scale and shift, which both kinds of normalisation end with."""

    def __init__(self, heads: int, channels: int, constants: Constants) -> None:
        self._constants = constants
        ones = np.ones((heads, 1, channels), np.float32)
        self.weights = {"gamma": ones, "beta": np.zeros_like(ones)}
        self.gradients: dict[str, Array] = {}

    def _scaled(self, centred: Array, rate: Array) -> Array:
        self._rate = rate
        self._normal = np.multiply(centred, rate, out=centred)
        found: Array = self._normal * self.weights["gamma"]
        found += self.weights["beta"]
        return found

    def _sums(self, gradient: Array) -> None:
        self.gradients["gamma"] = np.einsum("hpc,hpc->hc", gradient, self._normal)[:, None]
        self.gradients["beta"] = gradient.sum(axis=1, keepdims=True)


class BatchNormalization(_Normalization):
    """Batch norm by the statistics of the batch in training, else by the moving ones."""

    def __init__(self, heads: int, channels: int, constants: Constants) -> None:
        super().__init__(heads, channels, constants)
        self._mean = np.zeros((heads, 1, channels), np.float32)
        self._variance = np.ones_like(self._mean)

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the normalised input; moves the statistics in training."""
        mean, variance = self._mean, self._variance
        if training:
            mean = x.mean(axis=1, keepdims=True)
        centred = x - mean
        if training:
            variance = np.einsum("hpc,hpc->hc", centred, centred)[:, None] / np.float32(x.shape[1])
            moved = 1 - self._constants.bn_momentum
            self._mean += moved * (mean - self._mean)
            self._variance += moved * (variance - self._variance)
        return self._scaled(centred, 1 / np.sqrt(variance + self._constants.bn_epsilon))

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input."""
        self._sums(gradient)
        pictures = np.float32(gradient.shape[1])
        found: Array = self._normal * (self.gradients["gamma"] / -pictures)
        found += gradient
        found -= self.gradients["beta"] / pictures
        found *= self.weights["gamma"] * self._rate
        return found


class LayerNormalization(_Normalization):
    """`keras.layers.LayerNormalization`."""

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the normalised input."""
        centred = x - x.mean(axis=2, keepdims=True)
        variance = np.square(centred).mean(axis=2, keepdims=True)
        return self._scaled(centred, 1 / np.sqrt(variance + self._constants.ln_epsilon))

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input."""
        self._sums(gradient)
        inner = gradient * self.weights["gamma"]
        found: Array = self._normal * -(inner * self._normal).mean(axis=2, keepdims=True)
        found += inner
        found -= inner.mean(axis=2, keepdims=True)
        found *= self._rate
        return found


NORMALIZATIONS: dict[str, Callable[[int, int, Constants], Operation]] = {
    "batch": BatchNormalization,
    "layer": LayerNormalization,
}


class Dropout:
    """`keras.layers.Dropout`, with a rate for each head.

    Args:
        rates: Share of the inputs that is dropped, `(heads, 1, 1)`.
        rng: What draws.
    """

    def __init__(self, rates: Array, rng: np.random.Generator) -> None:
        self.weights: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._rates, self._rng = rates, rng

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the input, in training without what is dropped and the rest scaled up."""
        if not training:
            return x
        # A head alone draws what it draws among others. Sixteen bits are drawn the fastest.
        drawn = self._rng.integers(1 << 16, size=x.shape[1:], dtype=np.uint16)
        kept = drawn >= (self._rates * (1 << 16)).astype(np.uint16)
        self._mask = kept * (1 / (1 - self._rates))
        return np.asarray(x * self._mask)

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input."""
        return np.asarray(gradient * self._mask)


class Activation:
    """A function of each value.

    Args:
        name: "relu", "gelu" or "silu".
    """

    def __init__(self, name: str) -> None:
        self.weights: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._function = _ACTIVATIONS[name]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the function of the input."""
        value, self._slope = self._function(x)
        return value

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input."""
        return np.asarray(gradient * self._slope)


def _relu(x: Array) -> tuple[Array, Array]:
    positive = x > 0
    return x * positive, positive


def _gelu(x: Array) -> tuple[Array, Array]:
    share = scipy.special.ndtr(x)
    return x * share, share + x * np.exp(-np.square(x) / 2) * _PEAK


def _silu(x: Array) -> tuple[Array, Array]:
    share = (np.tanh(x / 2) + 1) / 2  # NumPy has vector instructions for it
    return x * share, share * (1 + x * (1 - share))


_ACTIVATIONS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "relu": _relu,
    "gelu": _gelu,
    "silu": _silu,
}
