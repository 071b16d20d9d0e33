"""The optimizers of heads in NumPy, with a learning rate and a decay for each head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_keras.tuning.operations import Array, Operation

# Those of `keras.optimizers.AdamW`.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
# Values that are updated together: with their gradients and moments they stay in a core's cache.
CHUNK = 1 << 15


class Update:
    """Moves the weights of all heads as the Keras optimizer of that name does.

    Args:
        optimizer: "adamw" or "sgd", with Nesterov momentum 0.9.
        operations: Those whose weights move.
        decay: Decoupled weight decay of the kernels, `(heads, 1)`.
        momentum: That of SGD.
    """

    def __init__(
        self, optimizer: str, operations: Sequence[Operation], decay: Array, *, momentum: float
    ) -> None:
        make = {"adamw": _AdamW, "sgd": _SGD}[optimizer]
        self._moved = [
            (operation, name, make(_flat(weight), decay * (name == "kernel"), momentum))
            for operation in operations
            for name, weight in operation.weights.items()
        ]

    def __call__(self, rates: Array, step: int) -> None:
        """Moves all weights once.

        Args:
            rates: Learning rates, `(heads, 1)`.
            step: Number of the step, from 0.
        """
        for operation, name, rule in self._moved:
            rule.move(_flat(operation.gradients[name]), rates, step)


def _flat(values: Array) -> Array:
    """Returns the values of each head in a row; those of weights are not copied."""
    return values.reshape(len(values), -1)


class _Rule:
    """How the values of an array of weights move, chunk by chunk.

    Args:
        weight: `(heads, values)`, moved in place.
        decay: Of each head, `(heads, 1)`.
        momentum: That of SGD.
    """

    moments: int

    def __init__(self, weight: Array, decay: Array, momentum: float) -> None:
        self._weight, self._decay, self._momentum = weight, decay, momentum
        self._moments = [np.zeros_like(weight) for _ in range(self.moments)]
        self._size = max(1, CHUNK // len(weight))
        self._change = np.empty((len(weight), self._size), weight.dtype)

    def move(self, gradient: Array, rates: Array, step: int) -> None:
        """Moves the weights once."""
        kept = 1 - rates * self._decay
        for start in range(0, gradient.shape[1], self._size):
            chunk = np.s_[:, start : start + self._size]
            weight = self._weight[chunk]
            weight *= kept
            change = self._change[:, : weight.shape[1]]
            moments = [moment[chunk] for moment in self._moments]
            self._find(change, moments, gradient=gradient[chunk], rates=rates, step=step)
            weight += change

    def _find(
        self, change: Array, moments: list[Array], *, gradient: Array, rates: Array, step: int
    ) -> None:
        """Writes into `change` by what the weights change, and moves the moments."""
        raise NotImplementedError


class _AdamW(_Rule):
    moments = 2

    def _find(
        self, change: Array, moments: list[Array], *, gradient: Array, rates: Array, step: int
    ) -> None:
        mean, square = moments
        np.subtract(gradient, mean, out=change)
        change *= 1 - BETA_1
        mean += change
        np.multiply(gradient, gradient, out=change)
        change -= square
        change *= 1 - BETA_2
        square += change
        np.sqrt(square, out=change)
        change += EPSILON
        np.divide(mean, change, out=change)
        change *= -rates * (1 - BETA_2 ** (step + 1)) ** 0.5 / (1 - BETA_1 ** (step + 1))


class _SGD(_Rule):
    moments = 1

    def _find(
        self, change: Array, moments: list[Array], *, gradient: Array, rates: Array, step: int
    ) -> None:
        [momentum] = moments
        np.multiply(gradient, -rates, out=change)
        momentum *= self._momentum
        momentum += change
        change += self._momentum * momentum
