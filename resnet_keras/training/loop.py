"""The steps of a phase: one by one from a feed, or many at a time from what lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.distribution.replicas import Replicas
from resnet_keras.training.cache import Activations
from resnet_keras.training.feed import Batch, Feed
from resnet_keras.training.signals import StopRequest
from resnet_keras.training.step import train_step

Sums = dict[str, float]
# From an epoch and its first step: numbers of steps done, and the sums over their pictures.
Steps = Callable[[int, int], Iterator[tuple[int, Sums]]]
# Between two looks at signals and at the clock; a step of a head takes less than a millisecond.
STEPS_AT_ONCE = 1000


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
        trainer: The compiled network.
        feed: Its batches.
        loss: Returns the loss of each picture.
        replicas: Those that share a batch.
        stop: Whether a signal came, in whatever process.
        jit_compile: Whether XLA compiles the step.
    """
    work = train_step(trainer, loss, replicas)

    def shared(*values: Any) -> Any:
        return replicas.run(work, *values)

    traced = tf.function(shared, autograph=False, jit_compile=jit_compile)

    def run(epoch: int, first: int) -> Iterator[tuple[int, Sums]]:
        feed.epoch = epoch
        for number, batch in enumerate(feed.batches(first), start=first):
            if not feed.sharing.fills(number):
                batch = batch._replace(weights=None)
            count = feed.sharing.count(number, number + 1)
            values = (replicas.split(batch), tf.constant(count, tf.float32), _asked(stop))
            totals = traced(*values)
            yield 1, _sums(totals, count, stop)

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
        trainer: The compiled head.
        feed: The order of the pictures.
        loss: Returns the loss of each picture.
        activations: The features of the pictures of this process.
        replicas: Those that share a batch.
        stop: Whether a signal came, in whatever process.
    """
    features, targets = tf.constant(activations.array()), tf.constant(feed.targets)
    step = train_step(trainer, loss, replicas)

    def work(shares: tf.Tensor, number: tf.Tensor, others: tuple[Any, Any]) -> Any:
        counts, stop = others
        rows, pictures = tf.unstack(shares[0, number], axis=-1)
        inputs = tf.gather(features, tf.maximum(rows, 0))
        answers = tf.gather(targets, tf.maximum(pictures, 0))
        weights = tf.cast(pictures >= 0, tf.float32)
        return step(Batch((inputs,), answers, weights), counts[number], stop)

    def run_steps(shares: Any, span: tuple[Any, Any], others: tuple[Any, Any]) -> Any:
        first, last = span

        def one(number: tf.Tensor, totals: Any) -> tuple[Any, Any]:
            return number + 1, totals + replicas.run(work, shares, number, others)

        start = (first, tf.zeros(3))
        return tf.while_loop(lambda number, _: number < last, one, start, parallel_iterations=1)[1]

    traced = tf.function(run_steps, autograph=False)
    counts = [feed.sharing.count(number, number + 1) for number in range(feed.steps)]

    def run(epoch: int, first: int) -> Iterator[tuple[int, Sums]]:
        shares = replicas.split(tf.constant(_shares(feed, activations, epoch), tf.int32))
        for start in range(first, feed.steps, STEPS_AT_ONCE):
            end = min(start + STEPS_AT_ONCE, feed.steps)
            others = (tf.constant(counts, tf.float32), _asked(stop))
            totals = traced(shares, (tf.constant(start), tf.constant(end)), others)
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


def _asked(stop: StopRequest) -> tf.Tensor:
    return tf.constant(float(stop.signal is not None))


def _sums(totals: Any, count: int, stop: StopRequest) -> Sums:
    loss, right, asked = np.asarray(totals, np.float64)
    if asked:
        stop.join()
    return {"loss": float(loss), "accuracy": float(right), "pictures": count}
