"""Mean and variance of a batch: of the pictures that count, over all replicas that share it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from resnet_keras.weight_uses import current_notes

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
        >>> from resnet_keras.batch_norm import BatchNorm
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


@dataclasses.dataclass(frozen=True)
class Replica:
    """One of those that share each batch.

    Args:
        number: Which of them this is, from 0.
        count: Number of them.
        total: Returns the sum of a tensor over all of them.
    """

    number: Any
    count: int
    total: Callable[[Any], Any]


@contextlib.contextmanager
def in_replica(replica: Replica) -> Iterator[None]:
    """Makes every synchronized `BatchNorm` share its statistics with others inside the block.

    It holds for this thread alone. Replicas of tf.distribute do so by themselves.
    """
    before: Replica | None = getattr(_thread, "replica", None)
    _thread.replica = replica
    try:
        yield
    finally:
        _thread.replica = before


def _shared_replica() -> Replica | None:
    """Returns what shares the batch with others, or None.

    On JAX the arrays of all devices are one array, whose statistics are those of the whole batch.
    """
    found: Replica | None = getattr(_thread, "replica", None)
    if found is None and keras.backend.backend() == "tensorflow":
        from tensorflow import distribute

        if context := distribute.get_replica_context():
            total = functools.partial(context.all_reduce, "SUM")
            number, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
            found = Replica(number, count, total)
    return found if found and found.count > 1 else None


class Statistics(NamedTuple):
    """What a batch says about each channel, in float64 where the backend has it, else float32.

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

    What a picture adds is computed from that picture alone, and summed up in float64, group by
    group where the pictures are in groups: so the result does not depend on how the pictures are
    split over replicas, but for the last bits where replicas have other groups. In float32 these
    are those of the result, and training on batch statistics magnifies them: so it is where JAX
    trains outside of `jax.enable_x64`, as in `fit`.

    The gradient is that of what `over_replicas` makes of the statistics, if they are synchronized.

    Args:
        features: float32 `(batch, ..., channels)` or with the channels elsewhere.
        axis: That of the channels, not the first.
        weights: `(batch,)`, at least 0; None counts all pictures alike.
        synchronized: Whether the batch of all replicas is meant, not that of this one.

    Example:
        >>> count, mean, variance = batch_statistics(ops.ones((2, 4, 4, 3)), axis=-1)
        >>> int(count[0]), tuple(mean.shape)
        (32, (3,))
    """
    rows = _rows(features, axis % len(features.shape), weights)
    if synchronized and (replica := _shared_replica()):
        rows = _of_all_replicas(rows, replica)
    channels = features.shape[axis]
    counts, means = rows[:, :1], rows[:, 1 : channels + 1]
    count = ops.sum(counts, axis=0)
    mean = ops.sum(counts * means, axis=0) / _divisor(count)
    # Replicas are merged by the distance of their means: no digits are lost if these are large.
    squares = rows[:, channels + 1 :] + counts * _squares(means, mean)
    return Statistics(count, mean, ops.sum(squares, axis=0) / _divisor(count))


def over_replicas(*values: Any) -> tuple[Any, ...]:
    """Returns vectors, equal in all replicas, whose gradients are summed over the replicas.

    It takes what is computed from synchronized statistics, just before pictures use it: all that
    lies before has the same gradient in all replicas then, to the last bit.
    """
    if (replica := _shared_replica()) is None:
        return values

    def same(line: Any) -> tuple[Any, Callable[..., Any]]:
        return ops.copy(line), replica.total

    line = ops.custom_gradient(same)(ops.concatenate(values))
    return tuple(ops.split(line, np.cumsum([value.shape[0] for value in values])[:-1].tolist()))


def per_picture(values: Any, features: Any, *, axis: int) -> Any:
    """Returns values of channels for each picture, in float32, to be broadcast over positions.

    The gradient of the values is then a sum over positions in float32, and over pictures, group by
    group, in the type of the values.

    Args:
        values: `(channels,)`.
        features: What they meet, `(batch, ...)`.
        axis: That of the channels.
    """
    shape = [1] * len(features.shape)
    shape[axis] = values.shape[0]
    copies = _copies(ops.reshape(values, shape), _groups())
    size = ops.shape(features)[0] // len(copies)
    copies = [ops.broadcast_to(copy, (size, *shape[1:])) for copy in copies]
    return ops.cast(ops.concatenate(copies) if len(copies) > 1 else copies[0], "float32")


def _copies(values: Any, count: int) -> list[Any]:
    """Returns copies, a power of 2 of them, whose gradients are added as a binary tree."""
    if count == 1:
        return [values]
    pair = ops.unstack(ops.broadcast_to(values[None], (2, *values.shape)))
    halves = [_copies(each, count // 2) for each in pair]
    return [copy for copies in zip(*halves, strict=True) for copy in copies]


def _groups() -> int:
    notes = current_notes()
    return notes.groups if notes else 1


def _rows(features: Any, axis: int, weights: Any) -> Any:
    """Returns count, means and sums of squared deviations of groups, `(., 1 + 2 * channels)`."""
    shape, dtype = ops.shape(features), wide_dtype()
    positions = [n for n in range(1, len(shape)) if n != axis]
    size = ops.cast(math.prod(shape[n] for n in positions), dtype)
    weights = ops.ones(shape[:1], dtype) if weights is None else ops.cast(weights, dtype)
    mean = ops.mean(features, axis=positions, keepdims=True) if positions else features
    squares = _squares(features, mean)
    squares = ops.sum(squares, axis=positions) if positions else squares
    means = ops.cast(ops.reshape(mean, (-1, features.shape[axis])), dtype)
    pictures = weights[:, None], means, ops.cast(squares, dtype)
    groups = zip(*(ops.split(each, _groups()) for each in pictures), strict=True)
    return ops.stack([_row(*group, size=size) for group in groups])


def _row(weights: Any, means: Any, squares: Any, *, size: Any) -> Any:
    count = ops.sum(weights)
    mean = ops.sum(means * weights, axis=0) / _divisor(count)
    squares = squares + size * _squares(means, mean)
    squares = ops.sum(squares * weights, axis=0)
    return ops.concatenate([ops.reshape(count * size, (1,)), mean, squares], axis=0)


def _squares(values: Any, mean: Any) -> Any:
    """Returns squared distances from the mean of the values.

    The sum of the distances is 0, so the gradient with respect to the mean is nothing but rounding.
    """
    return ops.square(values - ops.stop_gradient(mean))


def wide_dtype() -> str:
    """Returns the type of sums over pictures; JAX has float64 where it is switched on."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return "float64" if jax.config.jax_enable_x64 else "float32"
    return "float64" if backend == "tensorflow" else "float32"


def _divisor(count: Any) -> Any:
    return ops.where(count > 0, count, ops.ones_like(count))


def _of_all_replicas(rows: Any, replica: Replica) -> Any:
    """Returns the rows of all replicas, in turn; the gradient is that of the rows of this one."""
    place = ops.one_hot(replica.number, replica.count, dtype=rows.dtype)
    own = ops.reshape(place[:, None] * rows[:, None], (-1, rows.shape[-1]))
    return ops.stop_gradient(replica.total(own) - own) + own
