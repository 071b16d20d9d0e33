"""One part of the data: pictures by index, and as a `tf.data.Dataset`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from resnet_keras.data.report import DataReport
from resnet_keras.data.untuned import untuned
from resnet_keras.records import Recipe


class PictureStore(Protocol):
    """Where decoded pictures come from."""

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """Returns the pictures of some rows, uint8 `(k, size, size, 3)`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Labelled pictures of one part, decoded as the recipe says; made by `load_images`.

    Args:
        labels: Class of each picture, int32 `(n,)`.
        names: Relative path or identifier of each picture.
        class_names: One name a class, in the order of the labels.
        recipe: Size, crop and interpolation.
        batch_size: Pictures a batch.
        metadata: Further arrays with one value a picture.
        digests: sha256 of each picture's pixels.
        store: Where the pixels come from.
        rows: Row in the store of each picture, `(n,)`.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    recipe: Recipe
    batch_size: int
    metadata: Mapping[str, np.ndarray]
    digests: tuple[bytes, ...] = dataclasses.field(repr=False)
    store: PictureStore = dataclasses.field(repr=False)
    rows: np.ndarray = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one picture: `(size, size, 3)`."""
        return (self.recipe.image_size, self.recipe.image_size, 3)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 over pixels, labels, class names and the recipe's geometry, in hex."""
        recipe = self.recipe
        head = [self.class_names, recipe.image_size, recipe.crop, recipe.interpolation]
        content = hashlib.sha256(json.dumps(head).encode())
        content.update(self.labels.astype("<i4").tobytes())
        content.update(b"".join(self.digests))
        return content.hexdigest()

    def pictures(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns pictures by index.

        Args:
            indices: `(k,)`, each in [0, n).

        Returns:
            RGB pixels in [0, 255], uint8 `(k, size, size, 3)`.

        Raises:
            DataError: If a picture that is not kept by this process can no longer be read.
        """
        return self.store.pictures(self.rows[np.asarray(indices, np.intp)])

    def dataset(self, order: Sequence[int] | np.ndarray | None = None) -> tf.data.Dataset:
        """Returns batches of pictures and labels, read ahead of their use.

        Args:
            order: Indices of the pictures in the order wanted; by default each once, from 0.

        Returns:
            Batches of uint8 `(batch, size, size, 3)` and int32 `(batch,)`; the last one may
            be short.
        """
        indices = np.arange(len(self)) if order is None else np.asarray(order, np.intp)
        starts = range(0, len(indices), self.batch_size)

        def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for start in starts:
                batch = indices[start : start + self.batch_size]
                yield self.pictures(batch), self.labels[batch]

        signature = (
            tf.TensorSpec((None, *self.shape), tf.uint8),
            tf.TensorSpec((None,), tf.int32),
        )
        return untuned(
            tf.data.Dataset.from_generator(batches, output_signature=signature)
            .apply(tf.data.experimental.assert_cardinality(len(starts)))
            .prefetch(2)
        )

    def subset(self, indices: Sequence[int] | np.ndarray) -> Images:
        """Returns some of the pictures, in the order of `indices`, which share their memory."""
        chosen = np.asarray(indices, np.intp)
        return dataclasses.replace(
            self,
            labels=self.labels[chosen],
            names=tuple(self.names[index] for index in chosen),
            metadata={name: values[chosen] for name, values in self.metadata.items()},
            digests=tuple(self.digests[index] for index in chosen),
            rows=self.rows[chosen],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """Pictures for training, validation and test with one list of classes.

    Args:
        train: The training part, which the class list comes from.
        val: The validation part, if there is one.
        test: The test part, if there is one.
        report: What was found, left out and changed.
        drawn: Parts that the source did not have, "val" or "test", and that were drawn from its
            training part.
    """

    train: Images
    val: Images | None
    test: Images | None
    report: DataReport
    drawn: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in the order of the labels and the logits."""
        return self.train.class_names

    @property
    def recipe(self) -> Recipe:
        """How every picture was resized and cropped."""
        return self.train.recipe

    @property
    def fingerprint(self) -> str:
        """The sha256 over all parts, in hex."""
        parts = [part.fingerprint if part else None for part in (self.train, self.val, self.test)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
