"""The workers of one machine without accelerators, each of which trains as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from resnet_keras.batch_statistics import Replica, in_replica
from resnet_keras.distribution.all_reduce import AllReduce
from resnet_keras.distribution.replicas import Replicas


class LocalWorkers(Replicas):
    """Processes of one machine, with a replica each, that sum up through shared memory.

    The weights are ordinary variables of each process: the same gradients, in sum, keep them equal.

    Args:
        strategy: A `MultiWorkerMirroredStrategy` over these processes.
        all_reduce: Their sums.
    """

    exchange = "shared memory"

    def __init__(self, strategy: tf.distribute.Strategy, all_reduce: AllReduce) -> None:
        super().__init__(strategy)
        self._all_reduce = all_reduce
        self._before: list[tf.Tensor] = []

    @property
    def is_plain(self) -> bool:
        """Whether there is one device: there is, in each process."""
        return True

    def run(self, work: Callable[..., Any], *values: Any) -> Any:
        """Lets this replica work; returns what it returned."""
        with in_replica(Replica(self.first, self.count, self.total)):
            try:
                return work(*values)
            finally:
                self._before = []

    def total(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the sum over all replicas; called within `run`."""
        return self._sums([values])[0]

    def gradients(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the sums over all replicas; called within `run`."""
        return self._sums(values)

    def _sums(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # One after the other, as they are traced: so do the other processes.
        with tf.control_dependencies(self._before):
            found = tf.numpy_function(self._all_reduce, values, [each.dtype for each in values])
        self._before = [found[0]]
        return [tf.ensure_shape(new, old.shape) for new, old in zip(found, values, strict=True)]

    def _is_loss(self, error: tf.errors.OpError) -> bool:
        return self._all_reduce.is_broken or super()._is_loss(error)
