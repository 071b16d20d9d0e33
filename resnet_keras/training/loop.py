"""The steps of a phase: one by one from a feed, or many at a time from what lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.training.feed import Feed

Logs = dict[str, float]
# From an epoch and its first step: numbers of steps done, and the means since that step.
Steps = Callable[[int, int], Iterator[tuple[int, Logs]]]
# Between two looks at signals and at the clock; a step of a head takes less than a millisecond.
STEPS_AT_ONCE = 1000


def streamed_steps(trainer: keras.Model, feed: Feed) -> Steps:
    """Returns the steps that read each batch when it is needed."""
    # XLA halves the speed of training on CPU.
    compiled = bool(tf.config.list_physical_devices("GPU"))
    step = tf.function(trainer.train_step, autograph=False, jit_compile=compiled)

    def run(epoch: int, first: int) -> Iterator[tuple[int, Logs]]:
        trainer.reset_metrics()
        feed.epoch = epoch
        for batch in feed.batches(first):
            yield 1, _numbers(step(batch))

    return run


def resident_steps(trainer: keras.Model, feed: Feed, features: np.ndarray) -> Steps:
    """Returns the steps on features in memory, most of an epoch in one call.

    Args:
        trainer: The compiled head.
        feed: The order of the pictures.
        features: Input of the head, `(views, pictures, features)`.
    """
    values, targets = tf.constant(features), tf.constant(feed.targets)
    size = feed.batch_size
    counts = tf.TensorSpec((), tf.int32)
    places = tf.TensorSpec((None, 2), tf.int32)

    def run_steps(order: tf.Tensor, first: tf.Tensor, last: tf.Tensor) -> None:
        def step(number: tf.Tensor) -> tuple[tf.Tensor]:
            chosen = order[number * size : (number + 1) * size]
            trainer.train_step((tf.gather_nd(values, chosen), tf.gather(targets, chosen[:, 1])))
            return (number + 1,)

        tf.while_loop(lambda number: number < last, step, (first,), parallel_iterations=1)

    traced = tf.function(run_steps, input_signature=[places, counts, counts], autograph=False)

    def run(epoch: int, first: int) -> Iterator[tuple[int, Logs]]:
        trainer.reset_metrics()
        indices = feed.order(epoch)
        order = tf.constant(np.stack([feed.views(epoch, indices), indices], axis=1), tf.int32)
        for start in range(first, feed.steps, STEPS_AT_ONCE):
            count = min(STEPS_AT_ONCE, feed.steps - start)
            traced(order, start, start + count)
            yield count, _numbers(trainer.get_metrics_result())

    return run


def _numbers(logs: dict[str, Any]) -> Logs:
    return {name: float(value) for name, value in logs.items()}
