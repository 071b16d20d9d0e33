"""The optimizers of heads in NumPy, with a learning rate and a decay for each head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from resnet_keras.tuning.operations import Array, Operation

Chunk = tuple[slice, slice]
# Those of `keras.optimizers.AdamW`.
BETA_1, BETA_2 = 0.9, 0.999
# Values that are updated together: with their gradients and moments they stay in a core's cache.
CHUNK = 1 << 16


class Update:
    """Moves the weights of all heads as the Keras optimizer of that name does.

    Args:
        optimizer: "adamw" or "sgd", with Nesterov momentum 0.9.
        operations: Those whose weights move.
        decay: Decoupled weight decay of the kernels, `(heads, 1)`.
        momentum: That of SGD.
        epsilon: That of AdamW.
    """

    def __init__(
        self,
        optimizer: str,
        operations: Sequence[Operation],
        decay: Array,
        *,
        momentum: float,
        epsilon: float,
    ) -> None:
        self._weights, self._gradients, self._kernels = _joined(operations)
        rules: dict[str, type[_Rule]] = {"adamw": _AdamW, "sgd": _SGD}
        self._rule = rules[optimizer](self._weights, momentum, epsilon)
        self._decay, self._size = decay, max(1, CHUNK // len(decay))

    def __call__(self, rates: Array, step: int) -> None:
        """Moves all weights once; the gradients become changes.

        Args:
            rates: Learning rates, `(heads, 1)`.
            step: Number of the step, from 0.
        """
        kept = 1 - rates * self._decay
        for start in range(0, self._weights.shape[1], self._size):
            chunk = np.s_[:, start : start + self._size]
            weights, change = self._weights[chunk], self._gradients[chunk]
            kernels = weights[:, : max(0, self._kernels - start)]
            kernels *= kept
            self._rule.turn(change, chunk, rates=rates, step=step)
            weights += change


def _joined(operations: Sequence[Operation]) -> tuple[Array, Array, int]:
    """Joins all weights, since to move many small arrays takes longer than to move a large one.

    Args:
        operations: Those that have them. Theirs become views, and so do their gradients.

    Returns:
        The weights of each head in a row, those of kernels first; an array for their gradients;
        how many are those of kernels.
    """
    named = [(operation, name) for operation in operations for name in operation.weights]
    named.sort(key=lambda each: each[1] != "kernel")
    own = [operation.weights[name] for operation, name in named]
    weights = np.concatenate([each.reshape(len(each), -1) for each in own], axis=1)
    gradients, kernels, stop = np.zeros_like(weights), 0, 0
    for operation, name in named:
        shape = operation.weights[name].shape
        start, stop = stop, stop + math.prod(shape[1:])
        operation.weights[name] = weights[:, start:stop].reshape(shape)
        operation.gradients[name] = gradients[:, start:stop].reshape(shape)
        kernels = stop if name == "kernel" else kernels
    return weights, gradients, kernels


class _Rule:
    """How weights move.

    Args:
        weights: What moves, `(heads, values)`.
        momentum: That of SGD.
        epsilon: That of AdamW.
    """

    moments: int

    def __init__(self, weights: Array, momentum: float, epsilon: float) -> None:
        self._momentum, self._epsilon = momentum, epsilon
        self._moments = [np.zeros_like(weights) for _ in range(self.moments)]

    def turn(self, change: Array, chunk: Chunk, *, rates: Array, step: int) -> None:
        """Turns the gradients of some weights into changes, and moves their moments."""
        raise NotImplementedError


class _AdamW(_Rule):
    moments = 2

    def turn(self, change: Array, chunk: Chunk, *, rates: Array, step: int) -> None:
        # The moments of Keras, each over 1 - BETA, take two passes fewer.
        mean, square = (moment[chunk] for moment in self._moments)
        mean *= BETA_1
        mean += change
        square *= BETA_2
        change *= change
        square += change
        np.sqrt(square, out=change)
        change += self._epsilon / (1 - BETA_2) ** 0.5
        np.divide(mean, change, out=change)
        scale = (1 - BETA_1) / (1 - BETA_1 ** (step + 1))
        change *= -rates * scale * ((1 - BETA_2 ** (step + 1)) / (1 - BETA_2)) ** 0.5


class _SGD(_Rule):
    moments = 1

    def turn(self, change: Array, chunk: Chunk, *, rates: Array, step: int) -> None:
        [ahead] = (moment[chunk] for moment in self._moments)  # the momentum of Keras, times 0.9
        change *= -rates
        ahead += change
        ahead *= self._momentum
        change += ahead
