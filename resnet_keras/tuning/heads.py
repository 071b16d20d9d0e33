"""Trains heads on features that are there: those of one shape together, each as it would alone.

The steps, their pictures, views and learning rates are those of `fine_tune` in its phase "head".
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from resnet_keras.blocks import BN_MOMENTUM
from resnet_keras.data.memory import available_memory
from resnet_keras.distribution.sharing import Sharing
from resnet_keras.head import LAYER_NORM_EPSILON
from resnet_keras.specs import ResNetSpec
from resnet_keras.training.feed import Feed
from resnet_keras.training.optimizers import ADAM_EPSILON, SGD_MOMENTUM, Phase
from resnet_keras.tuning.crew import train_all
from resnet_keras.tuning.features import Features
from resnet_keras.tuning.operations import Array, Constants
from resnet_keras.tuning.scores import Metrics
from resnet_keras.tuning.space import Head
from resnet_keras.tuning.stack import Job
from resnet_keras.tuning.trials import Objective

# What decides the shape of a head, and what it computes besides numbers of its own.
SHAPE = ("backbone", "stage", "pooling", "views", "hidden_layers", "units")
KIND = ("activation", "normalization", "optimizer")
CONSTANTS = Constants(
    BN_MOMENTUM, ResNetSpec.bn_epsilon, LAYER_NORM_EPSILON, SGD_MOMENTUM, ADAM_EPSILON
)
# Weight, gradient, two moments, and what drawing it takes for a moment, in float32.
VALUE_BYTES = 24
# Of the free memory, for one stack of heads; others train at the same time.
MEMORY_SHARE = 0.2


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

    features: Mapping[str, Features]
    labels: np.ndarray
    classes: int
    train: np.ndarray
    val: np.ndarray
    batch_size: int
    epochs: int
    objective: Objective
    seed: int


def train_heads(heads: Sequence[Head], tasks: Sequence[Task]) -> list[Metrics | Exception]:
    """Trains heads on the cores of this machine, those of one shape and task in the same steps.

    Args:
        heads: What to train.
        tasks: What each of them learns.

    Returns:
        For each the metrics of the validation part at its best epoch, "best_epoch" from 1, and
        its share of "seconds"; all NaN for a head whose loss was once not finite. What a head
        raised, when it was tried alone, stands in the place of its metrics.
    """

    def key(number: int) -> tuple[str, ...]:
        facts = (heads[number].values.get(name) for name in (*SHAPE, *KIND))
        return (str(id(tasks[number])), *map(str, facts))

    order = sorted(range(len(heads)), key=key)
    stacks = [list(group) for _, group in itertools.groupby(order, key)]
    found = _trained(stacks, heads, tasks)
    # It may have been another one of the stack that took the memory.
    failed = [[each] for each in found if isinstance(found[each], Exception)]
    found |= _trained(failed, heads, tasks)
    return [found[number] for number in range(len(heads))]


def _trained(
    stacks: Sequence[Sequence[int]], heads: Sequence[Head], tasks: Sequence[Task]
) -> dict[int, Metrics | Exception]:
    """Returns what came of each head of some stacks, by its number."""
    found: dict[int, Metrics | Exception] = {}
    jobs: dict[tuple[int, ...], Job] = {}
    # All jobs are held at once: what they see, 16 bytes a picture and epoch, they share.
    steps = functools.cache(_steps)
    for stack in map(tuple, stacks):
        try:
            chosen = [heads[number] for number in stack]
            jobs[stack] = make_job(chosen, tasks[stack[0]], steps=steps)
        except MemoryError as error:
            found |= dict.fromkeys(stack, error)
    for stack, answer in zip(jobs, train_all(list(jobs.values())), strict=True):
        answers = [answer] * len(stack) if isinstance(answer, Exception) else answer
        found |= dict(zip(stack, answers, strict=True))
    return found


def _steps(task: Task, features: Features, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and labels of what each step of each epoch sees, -1 where there is nothing."""
    places = features.places[:views]
    feed = Feed(
        task.labels[task.train], task.classes, _nothing, specs=(), seed=(task.seed, 0),
        sharing=Sharing(len(task.train), task.batch_size), views=views,
    )  # fmt: skip
    rows = []
    for epoch in range(task.epochs):
        order = feed.order(epoch)
        seen = places[feed.views(epoch, order), task.train[order]]
        rows.append(np.where(order < 0, -1, seen))
    orders = np.stack([feed.order(epoch) for epoch in range(task.epochs)])
    return np.stack(rows), task.labels[task.train[orders]]


def make_job(
    heads: Sequence[Head], task: Task, *, steps: Callable[[Task, Features, int], Any] = _steps
) -> Job:
    """Returns the job of some heads of one shape.

    Args:
        heads: The heads.
        task: What they learn.
        steps: Returns rows and labels of each step.

    Raises:
        MemoryError: If there is too little memory for them.
    """
    values = heads[0].values
    features = task.features[values["backbone"]]
    columns = features.columns(values["stage"], values["pooling"])
    widths = (columns.stop - columns.start, *heads[0].hidden, task.classes)
    _check_memory(widths, heads=len(heads))
    rows, labels = steps(task, features, values["views"])
    count = rows.shape[0] * rows.shape[1]
    return Job(
        features=features.file,
        width=features.width,
        columns=columns,
        kernels=_initial_kernels(widths, seed=task.seed),
        normalization=values["normalization"],
        activation=values.get("activation", "relu"),
        optimizer=values["optimizer"],
        dropout=_column(heads, "dropout"),
        smoothing=_column(heads, "label_smoothing"),
        balance=_column(heads, "class_balance"),
        decay=_column(heads, "weight_decay"),
        rates=np.stack([_learning_rates(each, task, steps=count) for each in heads], axis=1)[
            :, :, None
        ],
        class_weights=_class_weights(task),
        rows=rows,
        labels=labels,
        val_rows=features.places[0, task.val],
        val_labels=task.labels[task.val],
        objective=task.objective,
        seed=task.seed,
        constants=CONSTANTS,
    )


def _nothing(epoch: int, indices: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, ...]:
    """Reads nothing: the features of a feed whose order alone is wanted."""
    return ()


def _initial_kernels(widths: Sequence[int], *, seed: int) -> list[Array]:
    """Returns the kernels that every head of a shape begins with, `(channels, units)` each."""
    pairs = list(itertools.pairwise(widths))
    hidden, last = keras.initializers.HeNormal, keras.initializers.GlorotUniform
    makers = [hidden] * (len(pairs) - 1) + [last]
    return [
        np.asarray(make(seed=seed + number)(pair))
        for number, (make, pair) in enumerate(zip(makers, pairs, strict=True))
    ]


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
