"""The devices of JAX, whose arrays one program sees as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.distribution.compiled import filled, shared_size
from resnet_keras.distribution.replicas import Replicas
from resnet_keras.distribution.strategies import Strategy


class GlobalReplica(Replicas):
    """All devices of JAX as one replica: the arrays of its batches lie on all of them.

    Args:
        strategy: A `keras.distribution.DataParallel` of this process, or the default strategy of
            `tf.distribute`, for one device.

    Raises:
        ValueError: If it is another strategy of `tf.distribute`, or has several processes.
    """

    def __init__(self, strategy: Strategy) -> None:
        one = tf.distribute.get_strategy()
        spread = isinstance(strategy, keras.distribution.DataParallel)
        if not (spread or strategy is one) or (spread and strategy.num_processes > 1):
            raise ValueError(
                "On JAX `strategy` must be a name, or a keras.distribution.DataParallel over "
                f"devices of one process. Received: strategy={strategy!r}"
            )
        super().__init__(one)
        self.strategy, self._distribution = strategy, strategy if spread else None

    @property
    def is_plain(self) -> bool:
        """Whether there is one device."""
        return self.devices == 1

    @property
    def devices(self) -> int:
        """Number of devices that have a copy of the weights."""
        return self._distribution.num_model_replicas if self._distribution else 1

    def groups(self, batch_size: int) -> int | None:
        """Returns None: a step finds the groups of its pictures by itself."""
        return None

    def split(self, values: Any) -> Any:
        """Returns arrays on the devices, filled up with zeros so that all get equal shares.

        Args:
            values: Arrays or tensors, or a structure of them, with the pictures as the first axis.
                None stays None.
        """
        return keras.tree.map_structure(self._spread, values)

    def _spread(self, values: Any) -> Any:
        if values is None:
            return None
        values = np.asarray(values)
        if self._distribution is None:
            return values
        values = filled(values, shared_size(len(values), self.devices))
        layout = self._distribution.get_data_layout(values.shape)
        return keras.distribution.distribute_tensor(values, layout)

    def copied(self, values: np.ndarray) -> Any:
        """Returns an array of which each device has a copy."""
        if self._distribution is None:
            return keras.ops.convert_to_tensor(values)
        layout = keras.distribution.TensorLayout(
            [None] * values.ndim, self._distribution.device_mesh
        )
        return keras.distribution.distribute_tensor(values, layout)

    def facts(self) -> dict[str, Any]:
        """Returns what the environment of a run says about them."""
        return super().facts() | {"devices": self.devices}

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Puts the variables that are made inside the block on all devices of this strategy."""
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(self._distribution)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)
