"""Pictures at a smaller size than they were decoded at, for progressive resizing."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from resnet_keras.data import Images
from resnet_keras.data.images import PictureStore


def at_size(images: Images, size: int) -> Images:
    """Returns the same pictures, shrunk to another side when they are read.

    Args:
        images: Pictures of one part.
        size: Side, in pixels, at most that of the pictures.
    """
    if size == images.recipe.image_size:
        return images
    recipe = dataclasses.replace(images.recipe, image_size=size)
    return dataclasses.replace(images, recipe=recipe, store=_Shrunk(images, size))


class _Shrunk(PictureStore):
    """Reads rows of a store at a smaller size; bilinear, over all pixels that are covered."""

    def __init__(self, images: Images, size: int) -> None:
        self._store, self._size = images.store, (size, size)

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """Returns pictures, uint8 `(k, size, size, 3)`."""
        shrunk = np.empty((len(rows), *self._size, 3), np.uint8)
        for target, picture in zip(shrunk, self._store.pictures(rows), strict=True):
            image = Image.fromarray(picture).resize(self._size, Image.Resampling.BILINEAR)
            target[:] = np.asarray(image)
        return shrunk
