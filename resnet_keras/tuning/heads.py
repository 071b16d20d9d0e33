"""Trains heads on features in memory: those of one shape together, as one head would train alone.

The steps, their pictures, views and learning rates are those of `fine_tune` in its phase "head".
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import threadpoolctl

from resnet_keras.data.memory import available_memory
from resnet_keras.data.threads import THREADS
from resnet_keras.distribution.sharing import Sharing
from resnet_keras.training.feed import Feed
from resnet_keras.training.optimizers import Phase
from resnet_keras.tuning import operations as ops
from resnet_keras.tuning.features import Features
from resnet_keras.tuning.operations import Array, Operation
from resnet_keras.tuning.scores import Metrics, scores
from resnet_keras.tuning.space import Head
from resnet_keras.tuning.trials import Objective, is_better
from resnet_keras.tuning.updates import Update, initial_kernels

# What decides the shape of a head, and what it computes besides numbers of its own.
SHAPE = ("backbone", "stage", "pooling", "views", "hidden_layers", "units")
KIND = ("activation", "normalization", "optimizer")
# Weight, gradient, two moments, and what drawing it takes for a moment, in float32.
VALUE_BYTES = 24
# Of the free memory, for one stack of heads; another one trains at the same time.
MEMORY_SHARE = 0.4
# Gradients below it would leave numbers that a processor takes a hundred times longer for.
TINY = 1e-20


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What heads learn.

    Args:
        features: Of all pictures, by backbone.
        labels: Class of each picture, `(pictures,)`.
        classes: Number of classes.
        train: Pictures to train on.
        val: Pictures to validate on.
        batch_size: Pictures a step.
        epochs: Passes over the training pictures.
        objective: Metric that says which epoch is the best.
        seed: Of weights, order and dropout.
    """

    features: dict[str, Features]
    labels: np.ndarray
    classes: int
    train: np.ndarray
    val: np.ndarray
    batch_size: int
    epochs: int
    objective: Objective
    seed: int


def train_heads(heads: Sequence[Head], task: Task) -> list[Metrics | Exception]:
    """Trains heads on the cores of this machine, those of one shape in the same steps.

    Args:
        heads: What to train.
        task: What they learn.

    Returns:
        For each the metrics of the validation part at its best epoch, "best_epoch" from 1, and
        its share of "seconds"; all NaN for a head whose loss was once not finite. What a head
        raised, when it was tried alone, stands in the place of its metrics.
    """

    def key(number: int) -> tuple[str, ...]:
        return tuple(str(heads[number].values.get(name)) for name in (*SHAPE, *KIND))

    def attempt(stack: Sequence[int]) -> list[Metrics | Exception]:
        try:
            return list(_train([heads[each] for each in stack], task))
        except Exception as error:
            return [error for _ in stack]

    order = sorted(range(len(heads)), key=key)
    stacks = [list(group) for _, group in itertools.groupby(order, key)]
    found: dict[int, Metrics | Exception] = {}
    with threadpoolctl.threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as pool:
        for stack, metrics in zip(stacks, pool.map(attempt, stacks), strict=True):
            found |= dict(zip(stack, metrics, strict=True))
        # It may have been another one that took the memory.
        for number in [each for each in found if isinstance(found[each], Exception)]:
            [found[number]] = attempt([number])
    return [found[number] for number in range(len(heads))]


def _train(heads: Sequence[Head], task: Task) -> list[Metrics]:
    begin = time.perf_counter()
    values = heads[0].values
    features = task.features[values["backbone"]]
    rows, places = features.of(values["stage"], values["pooling"], values["views"])
    stack = Stack(heads, task, channels=rows.shape[1])
    feed = Feed(
        task.labels[task.train], task.classes, _nothing, specs=(), seed=(task.seed, 0),
        sharing=Sharing(len(task.train), task.batch_size), views=values["views"],
    )  # fmt: skip
    best: list[Metrics] = [{} for _ in heads]
    with np.errstate(all="ignore"):  # a head that diverges says so by its loss
        for epoch in range(task.epochs):
            for step in range(feed.steps):
                chosen = feed.indices(epoch, step)
                pictures = task.train[chosen]
                x = rows[places[feed.views(epoch, chosen), pictures]]
                stack.step(x, feed.targets[chosen], epoch * feed.steps + step)
            logits = stack.logits(rows[places[0, task.val]])
            for head, found in enumerate(scores(logits, task.labels[task.val])):
                best[head] = _better(best[head], found | {"best_epoch": epoch + 1}, task.objective)
    seconds = (time.perf_counter() - begin) / len(heads)
    return [metrics | {"seconds": seconds} for metrics in best]


def _nothing(epoch: int, indices: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, ...]:
    """Reads nothing: the features of a feed whose order alone is wanted."""
    return ()


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
        heads: They differ only in dropout, rates, decay, smoothing and balance.
        task: What they learn.
        channels: Channels of the features.
    """

    def __init__(self, heads: Sequence[Head], task: Task, *, channels: int) -> None:
        values = heads[0].values
        steps = -(-len(task.train) // task.batch_size)
        self._smoothing = _column(heads, "label_smoothing")
        self._balanced = _column(heads, "class_balance")
        self._weights = _class_weights(task)
        self._rates = np.stack(
            [_learning_rates(head, task, steps=steps * task.epochs) for head in heads], axis=1
        )[:, :, None]
        widths = (channels, *heads[0].hidden, task.classes)
        _check_memory(widths, heads=len(heads))
        kernels = initial_kernels(widths, heads=len(heads), seed=task.seed)
        dropout = _column(heads, "dropout")
        rng = np.random.default_rng(task.seed)
        self._operations: list[Operation] = []
        for number, kernel in enumerate(kernels):
            self._operations += _before(
                kernel, dropout, normalization=values["normalization"], rng=rng
            )
            first = not any(operation.weights for operation in self._operations)
            self._operations.append(ops.Dense(kernel, first=first))
            if number < len(kernels) - 1:
                self._operations.append(ops.Activation(values["activation"]))
        trains = [bool(operation.weights) for operation in self._operations]
        self._first = trains.index(True)
        decay = _column(heads, "weight_decay")[:, 0]
        self._update = Update(values["optimizer"], self._operations, decay)

    @property
    def dense(self) -> list[ops.Dense]:
        """The dense layers, in order."""
        return [each for each in self._operations if isinstance(each, ops.Dense)]

    def logits(self, x: Array, *, training: bool = False) -> Array:
        """Returns the logits of all heads, `(heads, pictures, classes)`."""
        found = x[None]
        for operation in self._operations:
            found = operation.forward(found, training=training)
        return found

    def step(self, x: Array, targets: Array, number: int) -> None:
        """Moves the weights of all heads once, down the mean loss of some pictures.

        Args:
            x: Features, `(pictures, channels)`.
            targets: One-hot, `(pictures, classes)`.
            number: Of the step, from 0.
        """
        logits = self.logits(x, training=True)
        shares = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        wanted = targets * (1 - self._smoothing) + self._smoothing / targets.shape[1]
        weights = (targets @ self._weights)[:, None]
        gradient = (shares - wanted) * (1 + self._balanced * (weights - 1)) / np.float32(len(x))
        gradient[np.abs(gradient) < TINY] = 0
        for operation in reversed(self._operations[self._first :]):
            gradient = operation.backward(gradient)
        self._update(self._rates[number], number)


def _before(
    kernel: Array, dropout: Array, *, normalization: str, rng: np.random.Generator
) -> list[Operation]:
    """Returns what comes before a dense layer, as in `resnet_keras.head`."""
    heads, channels, _ = kernel.shape
    found: list[Operation] = []
    if normalization != "none":
        kinds: dict[str, Callable[[int, int], Operation]] = {
            "batch": ops.BatchNormalization,
            "layer": ops.LayerNormalization,
        }
        found.append(kinds[normalization](heads, channels))
    if dropout.any():
        found.append(ops.Dropout(dropout, rng))
    return found


def _check_memory(widths: Sequence[int], *, heads: int) -> None:
    """Raises `MemoryError` before memory runs out, which some libraries do not survive."""
    values = heads * sum(before * units for before, units in itertools.pairwise(widths))
    if values * VALUE_BYTES > MEMORY_SHARE * available_memory():
        raise MemoryError(f"{heads} heads of the widths {list(widths)}")


def _column(heads: Sequence[Head], name: str) -> Array:
    """Returns a value of each head, `(heads, 1, 1)`."""
    values = [float(head.values[name]) for head in heads]
    return np.array(values, np.float32)[:, None, None]


def _class_weights(task: Task) -> Array:
    """Returns the weight of a picture of each class that makes all classes count the same."""
    counts = np.bincount(task.labels[task.train], minlength=task.classes)
    return (len(task.train) / (task.classes * np.maximum(counts, 1))).astype(np.float32)


def _learning_rates(head: Head, task: Task, *, steps: int) -> Array:
    """Returns the learning rate of each step, as `make_optimizer` schedules it."""
    phase = Phase(
        "head",
        epochs=task.epochs,
        optimizer=head.values["optimizer"],
        learning_rate=head.values["learning_rate"],
    )
    peak, warmup = phase.peak_learning_rate(task.batch_size), round(phase.warmup * steps)
    number = np.arange(steps)
    fall = (number - warmup) / max(1, steps - warmup)
    rates = np.where(number < warmup, number / max(1, warmup), (1 + np.cos(np.pi * fall)) / 2)
    return (peak * rates).astype(np.float32)
