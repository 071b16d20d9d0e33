"""Datasets of a user as Keras's `fit` needs them: mixed, and even on all replicas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras_tuner.errors import FatalTypeError

# Bytes of the pictures among which the next one is drawn: 7,000 of 224 x 224.
MIXED_BYTES = 1 << 30


def check_dataset(name: str, batches: Any) -> None:
    """Refuses what is no dataset, which ends the search."""
    if not isinstance(batches, tf.data.Dataset):
        raise FatalTypeError(
            f"`{name}` must be a tf.data.Dataset of pictures and labels, such as "
            f"load_images(...).train.dataset() gives. Received: {type(batches).__name__}"
        )


def mixed(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns batches of the same size whose pictures are mixed anew in each epoch.

    Args:
        batches: Pictures, labels and, if there are any, weights.
    """
    pictures = next(iter(batches))[0]
    size, *shape = pictures.shape
    most = max(1, MIXED_BYTES // (math.prod(shape) * pictures.dtype.size))
    number = int(batches.cardinality())
    count = most if number < 0 else min(most, number * size)
    found = batches.unbatch().shuffle(count).batch(size)
    # Keras warns of an end that the dataset does not announce.
    found = found if number < 0 else found.repeat().take(number)
    return found.prefetch(tf.data.AUTOTUNE)


def filled(batches: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Returns batches that replicas share out evenly; what fills the last one has weight 0.

    Args:
        batches: Pictures, labels and, if there are any, weights.
        replicas: Number of replicas.
    """
    if replicas == 1:
        return batches
    return batches.map(_filler(replicas), tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _filler(replicas: int) -> Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    def fill(
        pictures: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        count = tf.shape(labels)[0]
        missing = -count % replicas
        # Batch norm may see what fills the batch, so that it is no black pictures.
        again = tf.range(count + missing) % count
        weights = tf.ones([count]) if weights is None else weights
        return (
            tf.gather(pictures, again),
            tf.gather(labels, again),
            tf.pad(weights, [[0, missing]]),
        )

    return fill
