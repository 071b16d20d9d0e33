"""The batches of a phase: a function of seed, epoch and step, so that a run can go on anywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.data import Images
from resnet_keras.training.cache import Activations

# Selects the inputs of some pictures in some views: (indices, views) -> (batch, ...).
Fetch = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Feed:
    """Batches of one phase in an order that seed and epoch alone decide.

    Args:
        labels: Class of each picture.
        num_classes: Number of classes.
        fetch: Selects inputs by picture and view.
        spec: Shape and type of one picture's input.
        batch_size: Pictures a step; the last step of an epoch has what is left.
        seed: Of the order; each phase has its own.
        views: Number of views that each picture goes through, one an epoch.
    """

    def __init__(
        self,
        labels: np.ndarray,
        num_classes: int,
        fetch: Fetch,
        *,
        spec: tf.TensorSpec,
        batch_size: int,
        seed: tuple[int, ...],
        views: int = 1,
    ) -> None:
        self.epoch = 0
        self.steps = -(-len(labels) // batch_size)
        self._targets = np.eye(num_classes, dtype=np.float32)[labels]
        self._fetch, self._spec, self._batch_size = fetch, spec, batch_size
        self._seed, self._views = seed, views
        # Every picture starts at a view of its own and takes the next one each epoch.
        self._first_view = np.random.default_rng(seed).integers(views, size=len(labels))
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((*self._seed, epoch)).permutation(len(self._targets))

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """Returns which pictures a step sees."""
        return self._order(epoch)[step * self._batch_size : (step + 1) * self._batch_size]

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and one-hot targets of a step."""
        indices = self.indices(epoch, step)
        views = (self._first_view[indices] + epoch) % self._views
        return self._fetch(indices, views), self._targets[indices]

    def close(self) -> None:
        """Lets go of the inputs: TensorFlow keeps the function that reads them for longer."""

        def gone(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
            raise RuntimeError("the phase of this feed is over")

        self._fetch = gone

    def dataset(self, first_step: int = 0) -> tf.data.Dataset:
        """Returns the steps of the current epoch from `first_step` on, read when iterated."""

        def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.batch(self.epoch, int(step))

        def load(step: Any) -> tuple[Any, Any]:
            kinds = (self._spec.dtype, tf.float32)
            inputs, targets = tf.numpy_function(read, [step], kinds)
            inputs.set_shape((None, *self._spec.shape))
            targets.set_shape((None, self._targets.shape[1]))
            return inputs, targets

        return tf.data.Dataset.range(first_step, self.steps).map(load).prefetch(2)


def picture_feed(images: Images, *, seed: tuple[int, ...]) -> Feed:
    """Returns a feed of the pictures themselves, uint8."""
    return Feed(
        images.labels,
        len(images.class_names),
        lambda indices, views: images.pictures(indices),
        spec=tf.TensorSpec(images.shape, tf.uint8),
        batch_size=images.batch_size,
        seed=seed,
    )


def cached_feed(images: Images, activations: Activations, *, seed: tuple[int, ...]) -> Feed:
    """Returns a feed of cached activations, a view an epoch for each picture."""
    values = activations.values
    return Feed(
        images.labels,
        len(images.class_names),
        lambda indices, views: values[views, indices],
        spec=tf.TensorSpec(values.shape[2:], tf.as_dtype(values.dtype)),
        batch_size=images.batch_size,
        seed=seed,
        views=values.shape[0],
    )
