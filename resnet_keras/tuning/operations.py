"""The layers of heads in NumPy, for many heads of one shape at once.

Arrays have the head as their first axis: inputs are `(heads, pictures, channels)`, or `(1, ...)`
where all heads see the same. A head is so small that a step of it takes Keras longer to begin than
to compute; here one step serves all of them. What they compute, backwards as well, is what the
layers of Keras compute.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Constants:
    """What the layers of the project have in common.

    Args:
        bn_momentum: Share of the moving statistics that batch norm keeps.
        bn_epsilon: What batch norm adds to the variance.
        ln_epsilon: What layer norm adds to it.
        sgd_momentum: That of SGD.
        adam_epsilon: What AdamW adds to the size of the gradients.
    """

    bn_momentum: float
    bn_epsilon: float
    ln_epsilon: float
    sgd_momentum: float
    adam_epsilon: float


class Operation:
    """One layer of all heads.

    Args:
        weights: What trains, by name; each has the head as its first axis.

    Attributes:
        weights: The same; `Update` moves them to where those of all layers are.
        gradients: Of the weights, written by `learn`; `Update` makes the arrays.
    """

    def __init__(self, **weights: Array) -> None:
        self.weights = weights
        self.gradients: dict[str, Array] = {}

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the output."""
        raise NotImplementedError

    def learn(self, gradient: Array) -> None:
        """Writes the gradients of the weights, given that of the output of the last `forward`."""

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input, given what `learn` was given before."""
        raise NotImplementedError


class Dense(Operation):
    """`keras.layers.Dense`.

    Args:
        kernel: `(heads, channels, units)`.
    """

    def __init__(self, kernel: Array) -> None:
        bias = np.zeros((len(kernel), 1, kernel.shape[2]), np.float32)
        super().__init__(kernel=kernel, bias=bias)

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns `x @ kernel + bias`."""
        self._x = x
        found: Array = x @ self.weights["kernel"]
        found += self.weights["bias"]
        return found

    def learn(self, gradient: Array) -> None:
        """Writes the gradients of kernel and bias."""
        np.matmul(self._x.swapaxes(1, 2), gradient, out=self.gradients["kernel"])
        _sum(gradient, out=self.gradients["bias"])

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input."""
        return np.asarray(gradient @ self.weights["kernel"].swapaxes(1, 2))


class _Normalization(Operation):
    """Scale and shift, which both kinds of normalisation end with."""

    def __init__(self, heads: int, channels: int, constants: Constants) -> None:
        self._constants = constants
        ones = np.ones((heads, 1, channels), np.float32)
        super().__init__(gamma=ones, beta=np.zeros_like(ones))

    def _learn(self, gradient: Array, scaled: Array) -> None:
        """Writes the gradients of gamma, given what it scales, and of beta."""
        np.einsum("hpc,hpc->hc", gradient, scaled, out=self.gradients["gamma"][:, 0])
        _sum(gradient, out=self.gradients["beta"])


class BatchNormalization(_Normalization):
    """Batch norm by the statistics of the batch in training, else by the moving ones."""

    def __init__(self, heads: int, channels: int, constants: Constants) -> None:
        super().__init__(heads, channels, constants)
        self._mean: Array = np.zeros((heads, 1, channels), np.float32)
        self._variance: Array = np.ones_like(self._mean)

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the normalised input; moves the statistics in training."""
        mean, variance, pictures = self._mean, self._variance, np.float32(x.shape[1])
        if training:
            mean = _sum(x) / pictures
        self._centred = x - mean
        if training:
            squares = np.einsum("hpc,hpc->hc", self._centred, self._centred)
            variance = squares[:, None] / pictures
            moved = 1 - self._constants.bn_momentum
            self._mean += moved * (mean - self._mean)
            self._variance += moved * (variance - self._variance)
        self._rate = 1 / np.sqrt(variance + self._constants.bn_epsilon)
        found: Array = self._centred * (self._rate * self.weights["gamma"])
        found += self.weights["beta"]
        return found

    def learn(self, gradient: Array) -> None:
        """Writes the gradients of gamma and beta."""
        self._learn(gradient, self._centred)
        self.gradients["gamma"] *= self._rate

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input."""
        pictures = np.float32(gradient.shape[1])
        found: Array = self._centred * (self.gradients["gamma"] * self._rate / -pictures)
        found += gradient
        found -= self.gradients["beta"] / pictures
        found *= self.weights["gamma"] * self._rate
        return found


class LayerNormalization(_Normalization):
    """`keras.layers.LayerNormalization`."""

    def forward(self, x: Array, *, training: bool) -> Array:
        """Returns the normalised input."""
        self._normal = x - _mean(x)
        variance = _mean(self._normal, self._normal)
        self._rate = 1 / np.sqrt(variance + self._constants.ln_epsilon)
        self._normal *= self._rate
        found: Array = self._normal * self.weights["gamma"]
        found += self.weights["beta"]
        return found

    def learn(self, gradient: Array) -> None:
        """Writes the gradients of gamma and beta."""
        self._learn(gradient, self._normal)

    def backward(self, gradient: Array) -> Array:
        """Returns the gradient of the input."""
        inner = gradient * self.weights["gamma"]
        found: Array = self._normal * -_mean(inner, self._normal)
        found += inner
        found -= _mean(inner)
        found *= self._rate
        return found


# Products with ones take half the time of NumPy's sums and means.
def _sum(values: Array, out: Array | None = None) -> Array:
    """Returns the sum over the pictures, `(heads, 1, channels)`."""
    return np.matmul(_ones(values.shape[1]), values, out=out)


def _mean(values: Array, factors: Array | None = None) -> Array:
    """Returns the mean over the channels, of the values times the factors if there are any."""
    channels = values.shape[2]
    sums = np.vecdot(values, _ones(channels) if factors is None else factors)
    return np.asarray(sums[:, :, None] / np.float32(channels))


@functools.cache
def _ones(count: int) -> Array:
    return np.ones((1, count), np.float32)


NORMALIZATIONS: dict[str, Callable[[int, int, Constants], Operation]] = {
    "batch": BatchNormalization,
    "layer": LayerNormalization,
}
