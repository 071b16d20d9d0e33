"""Trains heads of one shape together in NumPy; a process of its own does so for its parent.

Nothing here imports Keras or TensorFlow: a process is there in a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.tuning import operations as ops
from resnet_keras.tuning.operations import Array, Operation
from resnet_keras.tuning.pointwise import Activation, Dropout
from resnet_keras.tuning.scores import Metrics, scores
from resnet_keras.tuning.trials import Objective, is_better
from resnet_keras.tuning.updates import Update

# Gradients below it would leave numbers that a processor takes a hundred times longer for.
TINY = 1e-20


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """Heads of one shape, and all that their training depends on.

    Args:
        features: A file of float32 features of `width` columns.
        width: Columns of the file.
        columns: Those that the heads see.
        kernels: What all heads begin with, `(channels, units)` each.
        normalization: "none", "batch" or "layer".
        activation: "relu", "gelu" or "silu".
        optimizer: "adamw" or "sgd".
        dropout: Of each head, `(heads, 1, 1)`, as what follows.
        smoothing: Share of each label spread over all classes.
        balance: 1 where each class counts the same, else 0.
        decay: Weight decay.
        rates: Learning rates, `(steps, heads, 1)`.
        class_weights: Weight of a picture of each class where all count the same, `(classes,)`.
        rows: Row of the file of each picture of each step, `(epochs, steps, pictures)`, and -1.
        labels: Their classes.
        val_rows: Rows of the validation pictures.
        val_labels: Their classes.
        objective: Which epoch is the best.
        seed: Of dropout.
        constants: Of the layers.
    """

    features: Path
    width: int
    columns: slice
    kernels: list[Array]
    normalization: str
    activation: str
    optimizer: str
    dropout: Array
    smoothing: Array
    balance: Array
    decay: Array
    rates: Array
    class_weights: Array
    rows: Array
    labels: Array
    val_rows: Array
    val_labels: Array
    objective: Objective
    seed: int
    constants: ops.Constants

    @property
    def heads(self) -> int:
        """Number of heads."""
        return len(self.dropout)

    @property
    def size(self) -> int:
        """Number of weights of all heads."""
        return self.heads * sum(kernel.size for kernel in self.kernels)


def train(job: Job) -> list[Metrics]:
    """Returns the metrics of each head at its best epoch, as `train_heads` describes them."""
    begin = time.perf_counter()
    file = np.memmap(job.features, np.float32, "r").reshape(-1, job.width)
    features = np.ascontiguousarray(file[:, job.columns])
    stack = Stack(job)
    best: list[Metrics] = [{} for _ in range(job.heads)]
    with np.errstate(all="ignore"):  # a head that diverges says so by its loss
        for epoch, (rows, labels) in enumerate(zip(job.rows, job.labels, strict=True)):
            for step, (chosen, own) in enumerate(zip(rows, labels, strict=True)):
                real = chosen >= 0
                stack.step(features[chosen[real]], own[real], epoch * len(rows) + step)
            logits = stack.logits(features[job.val_rows])
            for head, found in enumerate(scores(logits, job.val_labels)):
                best[head] = _better(best[head], found | {"best_epoch": epoch + 1}, job.objective)
    seconds = (time.perf_counter() - begin) / job.heads
    return [metrics | {"seconds": seconds} for metrics in best]


def _better(best: Metrics, new: Metrics, objective: Objective) -> Metrics:
    """Returns the metrics with the better objective; once not finite, a head stays so."""
    if not best or not math.isfinite(new["loss"]):
        return new
    if not math.isfinite(best["loss"]):
        return best
    return new if is_better(new[objective], best[objective], objective) else best


class Stack:
    """Heads of one shape that train together.

    Args:
        job: What they are.
    """

    def __init__(self, job: Job) -> None:
        self._job, classes = job, job.kernels[-1].shape[1]
        labels = np.eye(classes, dtype=np.float32)
        self._targets = labels * (1 - job.smoothing) + job.smoothing / classes
        self._balance = 1 + job.balance * (job.class_weights[:, None] - 1)
        self._operations = list(self._made(np.random.SFC64(job.seed)))
        self._first = [bool(each.weights) for each in self._operations].index(True)
        self._update = Update(
            job.optimizer,
            self._operations,
            job.decay[:, 0],
            momentum=job.constants.sgd_momentum,
            epsilon=job.constants.adam_epsilon,
        )

    def _made(self, bits: np.random.BitGenerator) -> Iterator[Operation]:
        """Yields the layers, in the order of `resnet_keras.head`."""
        job, last = self._job, len(self._job.kernels) - 1
        for number, kernel in enumerate(job.kernels):
            if job.normalization != "none":
                kind = ops.NORMALIZATIONS[job.normalization]
                yield kind(job.heads, len(kernel), job.constants)
            if job.dropout.any():
                yield Dropout(job.dropout, bits)
            yield ops.Dense(np.repeat(kernel[None], job.heads, axis=0))
            if number < last:
                yield Activation(job.activation)

    def logits(self, x: Array, *, training: bool = False) -> Array:
        """Returns the logits of all heads, `(heads, pictures, classes)`."""
        found = x[None]
        for operation in self._operations:
            found = operation.forward(found, training=training)
        return found

    def step(self, x: Array, labels: Array, number: int) -> None:
        """Moves the weights of all heads once, down the mean loss of some pictures.

        Args:
            x: Features, `(pictures, channels)`.
            labels: Classes, `(pictures,)`.
            number: Of the step, from 0.
        """
        logits = self.logits(x, training=True)
        shares = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        weights = self._balance[:, labels] / np.float32(len(x))
        gradient = (shares - self._targets[:, labels]) * weights
        gradient[np.abs(gradient) < TINY] = 0
        for operation in reversed(self._operations[self._first + 1 :]):
            operation.learn(gradient)
            gradient = operation.backward(gradient)
        self._operations[self._first].learn(gradient)  # nothing needs the gradient of its input
        self._update(self._job.rates[number], number)


def serve() -> None:
    """Trains the jobs that a parent process writes to standard input, until it closes that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            job: Any = pickle.load(stdin)
        except EOFError:
            return
        try:
            answer: Any = train(job)
        except Exception as error:
            answer = error
        try:
            pickle.dump(answer, stdout)
            stdout.flush()
        except BrokenPipeError:  # the parent is gone
            return
