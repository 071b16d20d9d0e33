"""Mean and variance of a batch: of the pictures that count, over all replicas that share it."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

# tf.distribute traces each replica in a thread of its own.
_thread = threading.local()


@contextlib.contextmanager
def weighting(weights: Any) -> Iterator[None]:
    """Makes every `BatchNorm` that trains count each picture by its weight inside the block.

    The block must hold the call of the network. It holds for this thread alone.

    Args:
        weights: `(batch,)`, at least 0: 0 for a picture that only fills the batch, 1 for one
            that counts in full. None counts all alike.

    Example:
        >>> from resnet_keras.layers import BatchNorm
        >>> with weighting(ops.convert_to_tensor([1.0, 1.0, 0.0])):
        ...     outputs = BatchNorm()(ops.convert_to_tensor([[1.0], [3.0], [9.0]]), training=True)
        >>> [round(float(value), 2) for value in outputs[:2, 0]]
        [-1.0, 1.0]
    """
    before = picture_weights()
    _thread.weights = weights
    try:
        yield
    finally:
        _thread.weights = before


def picture_weights() -> Any:
    """Returns the weights of the innermost `weighting`, or None outside of any."""
    return getattr(_thread, "weights", None)


def replica_count() -> int:
    """Returns the number of replicas that share each batch, 1 outside of tf.distribute.

    On JAX the arrays of all devices are one array, whose statistics are those of the whole batch.
    """
    context = _replica()
    return context.num_replicas_in_sync if context else 1


def _replica() -> Any:
    if keras.backend.backend() != "tensorflow":
        return None
    from tensorflow import distribute

    return distribute.get_replica_context()


class Statistics(NamedTuple):
    """What a batch says about each channel.

    Args:
        count: Sum of the weights of all positions, `(1,)`.
        mean: `(channels,)`, 0 where the count is.
        variance: Over the count, not the count - 1, `(channels,)`; 0 where the count is.
    """

    count: Any
    mean: Any
    variance: Any


def batch_statistics(
    features: Any, *, axis: int, weights: Any = None, synchronized: bool = False
) -> Statistics:
    """Returns count, mean and variance of each channel over the pictures that count.

    Squares are taken about the mean of their replica, and replicas are merged by the distance of
    their means, so no digits are lost where a mean is large beside its deviation.

    Args:
        features: `(batch, ..., channels)` or with the channels elsewhere, in float32 or float64.
        axis: That of the channels, not the first.
        weights: `(batch,)`, at least 0; None counts all pictures alike.
        synchronized: Whether the batch of all replicas is meant, not that of this one.

    Example:
        >>> count, mean, variance = batch_statistics(ops.ones((2, 4, 4, 3)), axis=-1)
        >>> int(count[0]), tuple(mean.shape)
        (32, (3,))
    """
    rows = _row(features, axis % len(features.shape), weights)[None]
    if synchronized and replica_count() > 1:
        rows = _of_all_replicas(rows)
    channels = features.shape[axis]
    counts, means = rows[:, :1], rows[:, 1 : channels + 1]
    count = ops.sum(counts, axis=0)
    mean = ops.sum(counts * means, axis=0) / _divisor(count)
    squares = rows[:, channels + 1 :] + counts * ops.square(means - mean)
    return Statistics(count, mean, ops.sum(squares, axis=0) / _divisor(count))


def _row(features: Any, axis: int, weights: Any) -> Any:
    """Returns count, means and sums of squared deviations, `(1 + 2 * channels,)`."""
    shape, dtype = ops.shape(features), features.dtype
    positions = [n for n in range(1, len(shape)) if n != axis]
    weights = ops.ones(shape[:1], dtype) if weights is None else ops.cast(weights, dtype)
    size = ops.cast(math.prod(shape[n] for n in positions), dtype)
    count = ops.reshape(ops.sum(weights) * size, (1,))

    def total(values: Any) -> Any:
        # Weights meet the sums of pictures, which are small, not the features.
        pictures = ops.sum(values, axis=positions) if positions else values
        return ops.sum(pictures * weights[:, None], axis=0)

    mean = total(features) / _divisor(count)
    # The gradient of the squares by their own mean is 0.
    centre = ops.reshape(
        ops.stop_gradient(mean), [-1 if n == axis else 1 for n in range(len(shape))]
    )
    return ops.concatenate([count, mean, total(ops.square(features - centre))], axis=0)


def _divisor(count: Any) -> Any:
    return ops.where(count > 0, count, ops.ones_like(count))


def _of_all_replicas(rows: Any) -> Any:
    """Returns the rows of all replicas, each at its place in a sum: one exchange, with gradient."""
    context = _replica()
    place = ops.one_hot(
        context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=rows.dtype
    )
    return context.all_reduce("SUM", place[:, None] * rows)
