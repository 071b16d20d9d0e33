"""The batches of a phase: a function of seed, epoch and step, so that a run can go on anywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from resnet_keras.data import Augmentation, Images
from resnet_keras.data.untuned import untuned
from resnet_keras.distribution.sharing import Sharing
from resnet_keras.training.cache import Activations

Arrays = tuple[np.ndarray, ...]
# Selects the inputs of some pictures: (epoch, indices, views) -> arrays of one row a picture.
Fetch = Callable[[int, np.ndarray, np.ndarray], Arrays]


class Batch(NamedTuple):
    """What the replicas of this process see in a step, one after the other.

    Args:
        inputs: Of the network, `(k, ...)` each.
        targets: One-hot, `(k, classes)`.
        weights: 1 for a picture and 0 for what only fills the batch, `(k,)`.
    """

    inputs: tuple[Any, ...]
    targets: Any
    weights: Any

    @property
    def network_inputs(self) -> Any:
        """The inputs as the network is called on them."""
        return self.inputs[0] if len(self.inputs) == 1 else list(self.inputs)

    def weighted(self, values: Any) -> Any:
        """Returns values of the pictures, `(k,)`, times their weights."""
        return values if self.weights is None else values * self.weights


class Feed:
    """Batches of one phase in an order that seed and epoch alone decide.

    Args:
        labels: Class of each picture.
        num_classes: Number of classes.
        fetch: Selects inputs by epoch, picture and view.
        specs: Shape and type of one picture's inputs.
        sharing: Which pictures a step has, and which of them this process sees.
        seed: Of the order; each phase has its own.
        views: Number of views that each picture goes through, one an epoch.

    Raises:
        ValueError: If there would be no step.
    """

    def __init__(
        self,
        labels: np.ndarray,
        num_classes: int,
        fetch: Fetch,
        *,
        specs: tuple[tf.TensorSpec, ...],
        sharing: Sharing,
        seed: tuple[int, ...],
        views: int = 1,
    ) -> None:
        self.epoch = 0
        self.sharing = sharing
        self.steps = sharing.steps
        self.targets = np.eye(num_classes, dtype=np.float32)[labels]
        self._fetch, self.specs = fetch, specs
        self._failure: Exception | None = None
        self._seed, self._views = seed, views
        # Every picture starts at a view of its own and takes the next one each epoch.
        self._first_view = np.random.default_rng(seed).integers(views, size=len(labels))
        self._orders = functools.lru_cache(maxsize=2)(
            lambda epoch: sharing.order((*self._seed, epoch))
        )

    def order(self, epoch: int) -> np.ndarray:
        """Returns the pictures of each step of an epoch, `(steps, batch)`; -1 for none."""
        order: np.ndarray = self._orders(epoch)
        return order

    def views(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """Returns the view in which an epoch sees each of some pictures."""
        views: np.ndarray = (self._first_view[indices] + epoch) % self._views
        return views

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """Returns which pictures a step sees, in all processes together."""
        row: np.ndarray = self.order(epoch)[step]
        return row[row >= 0]

    def batch(self, epoch: int, step: int) -> Batch:
        """Returns what the replicas of this process see in a step."""
        indices = self.sharing.own(self.order(epoch)[step])
        real = indices >= 0
        chosen = indices[real]
        found = self._fetch(epoch, chosen, self.views(epoch, chosen))
        inputs = tuple(_spread(values, real) for values in found)
        return Batch(inputs, _spread(self.targets[chosen], real), real.astype(np.float32))

    def close(self) -> None:
        """Lets go of the inputs: TensorFlow keeps the function that reads them for longer."""

        def gone(epoch: int, indices: np.ndarray, views: np.ndarray) -> Arrays:
            raise RuntimeError("the phase of this feed is over")

        self._fetch = gone

    def dataset(self, first_step: int = 0) -> tf.data.Dataset:
        """Returns the steps of the current epoch from `first_step` on, read when iterated."""

        def read(step: np.ndarray) -> Arrays:
            try:
                inputs, *others = self.batch(self.epoch, int(step))
            except Exception as error:
                self._failure = error
                raise
            return (*inputs, *others)

        targets = tf.TensorSpec(self.targets.shape[1:], tf.float32)
        specs = (*self.specs, targets, tf.TensorSpec((), tf.float32))

        def load(step: Any) -> Batch:
            values = tf.numpy_function(read, [step], [spec.dtype for spec in specs])
            for value, spec in zip(values, specs, strict=True):
                value.set_shape((self.sharing.static_size, *spec.shape))
            return Batch(tuple(values[:-2]), *values[-2:])

        return untuned(tf.data.Dataset.range(first_step, self.steps).map(load).prefetch(2))

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
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


def _spread(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Returns the values at the places of real pictures, zeros at the others."""
    if real.all():
        return values
    spread = np.zeros((len(real), *values.shape[1:]), values.dtype)
    spread[real] = values
    return spread


def picture_feed(
    images: Images, augmentation: Augmentation, *, sharing: Sharing, seed: tuple[int, ...]
) -> Feed:
    """Returns a feed of pictures, uint8, with the draws by which each epoch varies them."""
    draws = functools.lru_cache(maxsize=2)(
        lambda epoch: augmentation.draws((*seed, epoch), len(images))
    )
    width = draws(0).shape[1]

    def fetch(epoch: int, indices: np.ndarray, views: np.ndarray) -> Arrays:
        return images.pictures(indices), draws(epoch)[indices]

    return Feed(
        images.labels,
        len(images.class_names),
        fetch,
        specs=(tf.TensorSpec(images.shape, tf.uint8), tf.TensorSpec((width,), tf.float32)),
        sharing=sharing,
        seed=seed,
    )


def cached_feed(
    images: Images, activations: Activations, *, sharing: Sharing, seed: tuple[int, ...]
) -> Feed:
    """Returns a feed of rows for `Activations.inputs`, a view an epoch for each picture."""

    def fetch(epoch: int, indices: np.ndarray, views: np.ndarray) -> Arrays:
        return (activations.batch(indices, views),)

    return Feed(
        images.labels,
        len(images.class_names),
        fetch,
        specs=(tf.TensorSpec((activations.packing.row_bytes,), tf.uint8),),
        sharing=sharing,
        seed=seed,
        views=activations.views,
    )
