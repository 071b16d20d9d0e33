"""The batches of a phase: a function of seed, epoch and step, so that a run can go on anywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
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
        drop_remainder: Whether an epoch leaves out what is left, so that all steps have one
            shape; as the order changes, it is other pictures in each.

    Raises:
        ValueError: If there would be no step.
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
        drop_remainder: bool = False,
    ) -> None:
        if drop_remainder and len(labels) < batch_size:
            raise ValueError(
                "With `drop_remainder` there must be as many pictures as a batch has. Received: "
                f"{len(labels)} pictures, batch_size={batch_size}"
            )
        self.epoch = 0
        self.steps = len(labels) // batch_size if drop_remainder else -(-len(labels) // batch_size)
        self.batch_size = batch_size
        self.targets = np.eye(num_classes, dtype=np.float32)[labels]
        self._fetch, self._spec = fetch, spec
        self._static_size = batch_size if drop_remainder else None
        self._failure: Exception | None = None
        self._seed, self._views = seed, views
        # Every picture starts at a view of its own and takes the next one each epoch.
        self._first_view = np.random.default_rng(seed).integers(views, size=len(labels))
        self._orders = functools.lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((*self._seed, epoch)).permutation(len(self.targets))

    def order(self, epoch: int) -> np.ndarray:
        """Returns all pictures in the order in which the steps of an epoch take them."""
        return self._orders(epoch)

    def views(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """Returns the view in which an epoch sees each of some pictures."""
        views: np.ndarray = (self._first_view[indices] + epoch) % self._views
        return views

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """Returns which pictures a step sees."""
        return self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def count(self, first: int, last: int) -> int:
        """Returns how many pictures the steps from `first` to before `last` see together."""
        return min(last * self.batch_size, len(self.targets)) - first * self.batch_size

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and one-hot targets of a step."""
        indices = self.indices(epoch, step)
        return self._fetch(indices, self.views(epoch, indices)), self.targets[indices]

    def close(self) -> None:
        """Lets go of the inputs: TensorFlow keeps the function that reads them for longer."""

        def gone(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
            raise RuntimeError("the phase of this feed is over")

        self._fetch = gone

    def dataset(self, first_step: int = 0) -> tf.data.Dataset:
        """Returns the steps of the current epoch from `first_step` on, read when iterated."""

        def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            try:
                return self.batch(self.epoch, int(step))
            except Exception as error:
                self._failure = error
                raise

        def load(step: Any) -> tuple[Any, Any]:
            kinds = (self._spec.dtype, tf.float32)
            inputs, targets = tf.numpy_function(read, [step], kinds)
            inputs.set_shape((self._static_size, *self._spec.shape))
            targets.set_shape((self._static_size, self.targets.shape[1]))
            return inputs, targets

        return tf.data.Dataset.range(first_step, self.steps).map(load).prefetch(2)

    def batches(self, first_step: int = 0) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Yields the steps of the current epoch from `first_step` on.

        Raises:
            DataError: If a picture can no longer be read.
            RunError: If kept activations can no longer be read.
        """
        self._failure = None
        try:
            yield from self.dataset(first_step)
        except tf.errors.OpError as error:
            # TensorFlow raises one of its own errors, with a stack trace for its message.
            raise (self._failure or error) from None


def picture_feed(images: Images, *, seed: tuple[int, ...], drop_remainder: bool = False) -> Feed:
    """Returns a feed of the pictures themselves, uint8; the arguments are those of `Feed`."""
    return Feed(
        images.labels,
        len(images.class_names),
        lambda indices, views: images.pictures(indices),
        spec=tf.TensorSpec(images.shape, tf.uint8),
        batch_size=images.batch_size,
        seed=seed,
        drop_remainder=drop_remainder,
    )


def cached_feed(
    images: Images,
    activations: Activations,
    *,
    seed: tuple[int, ...],
    drop_remainder: bool = False,
) -> Feed:
    """Returns a feed of rows for `Activations.inputs`, a view an epoch for each picture."""
    return Feed(
        images.labels,
        len(images.class_names),
        activations.batch,
        spec=tf.TensorSpec((activations.packing.row_bytes,), tf.uint8),
        batch_size=images.batch_size,
        seed=seed,
        views=activations.views,
        drop_remainder=drop_remainder,
    )
