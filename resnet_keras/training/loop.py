"""The steps of a phase: one by one from a feed, or many at a time from what lies in memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from resnet_keras.batch_norm import counting_layers
from resnet_keras.distribution.replicas import Replicas
from resnet_keras.training.cache import Activations
from resnet_keras.training.feed import Feed
from resnet_keras.training.signals import StopRequest

Sums = dict[str, float]
# From an epoch and its first step: numbers of steps done, and the sums over their pictures.
Steps = Callable[[int, int], Iterator[tuple[int, Sums]]]
# Between two looks at signals and at the clock; a step of a head takes less than a millisecond.
STEPS_AT_ONCE = 1000
# The module of the steps on each backend: both have `one_step` and `many_steps`.
BACKENDS = {"tensorflow": "step", "jax": "jax_step"}


def streamed_steps(
    trainer: keras.Model,
    feed: Feed,
    loss: Any,
    *,
    replicas: Replicas,
    stop: StopRequest,
    jit_compile: bool,
) -> Steps:
    """Returns the steps that read each batch when it is needed.

    Args:
        trainer: The network, with its optimizer.
        feed: Its batches.
        loss: Returns the loss of each picture.
        replicas: Those that share a batch.
        stop: Whether a signal came, in whatever process.
        jit_compile: Whether XLA compiles the step.
    """
    groups = feed.sharing.groups
    step = _backend().one_step(trainer, loss, replicas, groups=groups, jit_compile=jit_compile)
    weighted = _weighted_steps(trainer, feed)

    def run(epoch: int, first: int) -> Iterator[tuple[int, Sums]]:
        feed.epoch = epoch
        for number, batch in enumerate(feed.batches(first), start=first):
            if number not in weighted:
                batch = batch._replace(weights=None)
            count = feed.sharing.count(number, number + 1)
            yield 1, _sums(step(batch, count, _asked(stop)), count, stop)

    return run


def resident_steps(
    trainer: keras.Model,
    feed: Feed,
    loss: Any,
    *,
    activations: Activations,
    replicas: Replicas,
    stop: StopRequest,
) -> Steps:
    """Returns the steps on features in memory, most of an epoch in one call.

    Args:
        trainer: The head, with its optimizer.
        feed: The order of the pictures.
        loss: Returns the loss of each picture.
        activations: The features of the pictures of this process.
        replicas: Those that share a batch.
        stop: Whether a signal came, in whatever process.
    """
    memory = (activations.array(), feed.targets)
    groups = feed.sharing.groups
    prepare = _backend().many_steps(trainer, loss, replicas, groups=groups, memory=memory)
    counts = [feed.sharing.count(number, number + 1) for number in range(feed.steps)]

    def run(epoch: int, first: int) -> Iterator[tuple[int, Sums]]:
        shares = _shares(feed, activations, epoch).astype(np.int32)
        steps = prepare(shares, np.array(counts, np.float32))
        for start in range(first, feed.steps, STEPS_AT_ONCE):
            end = min(start + STEPS_AT_ONCE, feed.steps)
            totals = steps(start, end, _asked(stop))
            yield end - start, _sums(totals, feed.sharing.count(start, end), stop)

    return run


def _shares(feed: Feed, activations: Activations, epoch: int) -> np.ndarray:
    """Returns row and picture of all that an epoch sees here, -1 for what only fills a share.

    The shape is `(replicas, steps, replica_size, 2)`, of the replicas of this process.
    """
    sharing = feed.sharing
    pictures = np.stack([sharing.own(row) for row in feed.order(epoch)])
    rows = activations.places[feed.views(epoch, pictures), pictures]
    pairs = np.stack([rows, pictures], axis=-1)
    return pairs.reshape(feed.steps, -1, sharing.replica_size, 2).swapaxes(0, 1)


def _weighted_steps(trainer: keras.Model, feed: Feed) -> set[int]:
    """Returns the steps whose pictures have weights, if any of them only fills a batch."""
    steps = range(feed.steps)
    found = {number for number in steps if feed.sharing.fills(number)}
    # Weights cost the statistics of batch norm their fused kernel; all else, nothing. Each form
    # of a step is traced by itself, and on JAX compiled for long.
    one_form = keras.backend.backend() == "jax" or not any(counting_layers(trainer))
    return set(steps) if found and one_form else found


def _backend() -> Any:
    return importlib.import_module(f"{__package__}.{BACKENDS[keras.backend.backend()]}")


def _asked(stop: StopRequest) -> float:
    return float(stop.signal is not None)


def _sums(totals: Any, count: int, stop: StopRequest) -> Sums:
    loss, right, asked = np.asarray(totals, np.float64)
    if asked:
        stop.join()
    return {"loss": float(loss), "accuracy": float(right), "pictures": count}
