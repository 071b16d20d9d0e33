"""The layers of heads in NumPy that do the same to each value."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.special

from resnet_keras.tuning.operations import Array, Operation

_PEAK = np.float32(1 / np.sqrt(2 * np.pi))  # of the normal density


class Dropout(Operation):
    """`keras.layers.Dropout`, with a rate for each head.

    Args:
        rates: Share of the inputs that is dropped, `(heads, 1, 1)`.
        bits: What draws.
    """

    def __init__(self, rates: Array, bits: np.random.BitGenerator) -> None:
        super().__init__()
        self._bits = bits
        self._least = (rates * (1 << 16)).astype(np.uint16)
        self._scale = 1 / (1 - rates)

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the input, in training without what is dropped and the rest scaled up."""
        if not training:
            return x
        kept = self._drawn(x.shape[1:]) >= self._least
        self._mask = kept * self._scale
        return np.asarray(x * self._mask)

    def _drawn(self, shape: tuple[int, ...]) -> Array:
        """Returns sixteen random bits for each value; a head alone gets what it gets in a stack."""
        size = math.prod(shape)
        words = self._bits.random_raw(math.ceil(size / 4))
        return np.asarray(words).view(np.uint16)[:size].reshape(shape)

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input."""
        return np.asarray(gradient * self._mask)


class Activation(Operation):
    """A function of each value.

    Args:
        name: "relu", "gelu" or "silu".
    """

    def __init__(self, name: str) -> None:
        super().__init__()
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
    value = x * share
    return value, share * (1 + x - value)


_ACTIVATIONS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "relu": _relu,
    "gelu": _gelu,
    "silu": _silu,
}
