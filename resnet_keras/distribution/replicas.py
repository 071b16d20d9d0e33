"""The replicas of a strategy: which pictures each takes, and what they compute together."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.distribution.all_reduce import all_reduce_of
from resnet_keras.distribution.strategies import Strategy, cluster_of
from resnet_keras.distribution.workers import ALONE, Workers
from resnet_keras.errors import WorkersError

SUM = tf.distribute.ReduceOp.SUM
# Groups of pictures that gradients are summed by, of all replicas together, and the fewest pictures
# of each: half as many groups are taken until they have as many.
GROUPS = 4
FEWEST_OF_GROUP = 8
# What TensorFlow raises when another process is gone, or when its part of an exchange is.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


class Replicas:
    """The copies of a network that train together, those of this process and all others.

    The pictures of a batch have places 0, 1, ...; replica r takes those whose place leaves the
    remainder r when divided by the number of replicas.

    Args:
        strategy: What places the copies on devices and in processes.
    """

    strategy: Strategy
    exchange = "tf.distribute"  # what sums go through between workers

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self.count = strategy.num_replicas_in_sync
        self.workers = _workers(strategy)
        self.local = self.count // self.workers.count
        self.first = self.workers.index * self.local

    @property
    def numbers(self) -> range:
        """Numbers of the replicas of this process."""
        return range(self.first, self.first + self.local)

    @property
    def is_plain(self) -> bool:
        """Whether there is one device, which TensorFlow chooses by itself."""
        named = (tf.distribute.OneDeviceStrategy, tf.distribute.TPUStrategy)
        return bool(self.count == 1) and not isinstance(self.strategy, named)

    def groups(self, batch_size: int) -> int | None:
        """Returns by how many groups of its pictures a replica sums its gradients.

        One, two and four replicas then sum in one order. None where the sums are left to
        TensorFlow: accelerators add in an order of their own, and small groups slow them down.

        Args:
            batch_size: Pictures a step, of all replicas together.
        """
        if tf.config.list_physical_devices("GPU") or self._on_tpu:
            return None
        groups = GROUPS
        while groups > 1 and batch_size < groups * FEWEST_OF_GROUP:
            groups //= 2
        return 1 if groups % self.count else groups // self.count

    @property
    def _on_tpu(self) -> bool:
        return isinstance(self.strategy, tf.distribute.TPUStrategy)

    def split(self, values: Any) -> Any:
        """Returns tensors, one share a replica of this process after the other, as `run` wants.

        Args:
            values: Tensors, or a structure of them, with the pictures as the first axis; shares
                have one length. None stays None.
        """
        return tf.nest.map_structure(self._split, values)

    def _split(self, values: Any) -> Any:
        if self.local == 1 or values is None:
            return values
        shares = tf.split(values, self.local)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: shares[context.replica_id_in_sync_group - self.first]
        )

    def run(self, work: Callable[..., Any], *values: Any) -> Any:
        """Lets every replica work on its own values; returns what the first one here returned."""
        if self.is_plain:
            return work(*values)
        found = self.strategy.run(work, args=values)
        return tf.nest.map_structure(
            lambda each: self.strategy.experimental_local_results(each)[0], found
        )

    def mapped(self, work: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the function whose rows the replicas of this process share out.

        Args:
            work: Returns a row for each row; called within a `tf.function`.
        """
        if self.local == 1:
            return work

        def shared(values: tf.Tensor) -> tf.Tensor:
            count = tf.shape(values)[0]
            size = (count + self.local - 1) // self.local
            missing = [[0, size * self.local - count], *[[0, 0]] * (len(values.shape) - 1)]
            filled = tf.pad(values, missing)

            def on_replica() -> tf.Tensor:
                number = tf.distribute.get_replica_context().replica_id_in_sync_group - self.first
                return work(filled[number * size : (number + 1) * size])

            found = self.strategy.experimental_local_results(self.strategy.run(on_replica))
            return tf.concat(found, axis=0)[:count]

        return shared

    def total(self, values: Any) -> Any:
        """Returns the sum over all replicas; called within `run`."""
        if self.count == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce(SUM, values)

    def gradients(self, values: Sequence[Any]) -> Sequence[Any]:
        """Returns gradients as the optimizer takes them: it sums those of a strategy up itself."""
        return values

    def facts(self) -> dict[str, Any]:
        """Returns what the environment of a run says about them."""
        facts = {"replicas": self.count, "workers": self.workers.count}
        return facts | ({"exchange": self.exchange} if self.workers.count > 1 else {})

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the block in which the variables of the network are made."""
        return contextlib.nullcontext() if self.is_plain else self.strategy.scope()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Names the loss of another process for what it is, inside the block.

        Raises:
            WorkersError: If TensorFlow cannot reach another process.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if not self._is_loss(error):
                raise
            raise WorkersError(
                f"Worker {self.workers.index} of {self.workers.count} lost another one, whose own "
                "output says why: start all of them again to go on from the last checkpoint."
            ) from error

    def _is_loss(self, error: tf.errors.OpError) -> bool:
        return self.workers.count > 1 and isinstance(error, _LOST)


def replicas_of(strategy: Strategy) -> Replicas:
    """Returns the replicas of a strategy; the same at each call, as exchanges are traced once.

    The workers of a strategy call this alike.

    Raises:
        ValueError: If the backend cannot train by this strategy.
    """
    # In the scope of a strategy all variables are made for its own way of sharing.
    local = None if tf.distribute.has_strategy() else _local_workers(strategy)
    return local or _replicas(strategy)


@functools.cache
def _replicas(strategy: Strategy) -> Replicas:
    if keras.backend.backend() == "jax":
        from resnet_keras.distribution.global_replica import GlobalReplica

        return GlobalReplica(strategy)
    return Replicas(strategy)


@functools.cache
def _local_workers(strategy: Strategy) -> Replicas | None:
    replicas = _replicas(strategy)
    if replicas.workers.count == 1:
        return None
    able = replicas.local == 1 and not tf.config.list_physical_devices("GPU")
    if (all_reduce := all_reduce_of(replicas.workers, able=able)) is None:
        return None
    from resnet_keras.distribution.local_workers import LocalWorkers

    return LocalWorkers(strategy, all_reduce)


def _workers(strategy: tf.distribute.Strategy) -> Workers:
    cluster = cluster_of(strategy)
    if cluster is None:
        return ALONE
    return Workers(cluster.index, cluster.count, _gathering(strategy, cluster.index, cluster.count))


def _gathering(
    strategy: tf.distribute.Strategy, index: int, count: int
) -> Callable[[bytes], list[bytes]]:
    """Returns the exchange of bytes between workers: a sum in which each has its own place."""
    local = strategy.num_replicas_in_sync // count

    def summed(values: tf.Tensor) -> Any:
        def on_replica() -> Any:
            context = tf.distribute.get_replica_context()
            leads = tf.equal(context.replica_id_in_sync_group % local, 0)
            return context.all_reduce(SUM, tf.where(leads, values, tf.zeros_like(values)))

        return strategy.experimental_local_results(strategy.run(on_replica))[0]

    signature = [tf.TensorSpec([None], tf.int32)]
    total = tf.function(summed, input_signature=signature, autograph=False)

    def gather(value: bytes) -> list[bytes]:
        words = np.frombuffer(value + bytes(-len(value) % 4), np.int32)
        lengths = np.zeros(count, np.int32)
        lengths[index] = len(value)
        lengths = np.asarray(total(lengths))
        if not lengths.any():  # of which TensorFlow makes no sum, but a crash
            return [b""] * count
        ends = np.cumsum(-(-lengths // 4))
        line = np.zeros(ends[-1], np.int32)
        line[ends[index] - len(words) : ends[index]] = words
        line = np.asarray(total(line))
        parts = np.split(line, ends[:-1])
        return [part.tobytes()[:length] for part, length in zip(parts, lengths, strict=True)]

    return gather
