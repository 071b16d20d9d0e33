"""The Keras layer that changes pictures: one resampling for where, one pass for how bright.

The layer draws nothing: the random numbers of each picture come in with it. The arithmetic is
compiled on TensorFlow, which would otherwise write a copy of the batch for each operation: that
takes less than a tenth of the time of Keras's own layers, one after the other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from resnet_keras.data.augment import COLUMNS, Augmentation
from resnet_keras.layers import PACKAGE

WHITE = 255.0
# Of `(batch, height, width, channels)`.
VERTICAL, HORIZONTAL = 1, 2
# A function of augmentation, pictures and draws.
Change = Callable[[Augmentation, Any, Any], Any]


@keras.saving.register_keras_serializable(PACKAGE)
class Augment(keras.layers.Layer):
    """Changes each picture by the numbers that were drawn for it, in training and outside.

    Turn, shift, zoom and flip together are one bilinear resampling about the middle, with the
    picture's own reflection behind its borders; flips alone only reverse the order of the pixels.
    Contrast is changed about the mean of each channel, and what leaves [0, 255] is clipped.

    It is called on two inputs: pictures in [0, 255], `(batch, height, width, channels)` of any
    number type, and their rows of `Augmentation.draws`, `(batch, 8)`. It has no state, and works
    in float32 whatever the precision policy.

    Args:
        augmentation: How far pictures are changed, or the dictionary it was saved as.
        **kwargs: Those of `keras.layers.Layer`.

    Example:
        >>> import numpy as np
        >>> from resnet_keras.data import Augment, Augmentation
        >>> augmentation = Augmentation(rotation=5)
        >>> pictures = np.full((2, 8, 8, 3), 100, np.uint8)
        >>> changed = Augment(augmentation)([pictures, augmentation.draws((0, 1), count=2)])
        >>> float(changed[1, 4, 4, 0])
        100.0
    """

    def __init__(self, augmentation: Augmentation | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", "name": "augment", **kwargs})
        if not isinstance(augmentation, Augmentation):
            augmentation = Augmentation(**augmentation)
        self.augmentation = augmentation

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """Returns the changed pictures, float32, of the same shape."""
        images, draws = inputs
        # Compiled as one, the second would look up each pixel twice: once for the mean alone.
        for change in _changes(self.augmentation):
            images = _compiled(change, self.augmentation, images)(images, draws)
        return ops.cast(images, "float32")

    def compute_output_shape(
        self, input_shape: tuple[tuple[int | None, ...], tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """Returns the shape of the pictures."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Returns the config that rebuilds this layer."""
        return {**super().get_config(), "augmentation": dataclasses.asdict(self.augmentation)}


def _changes(augmentation: Augmentation) -> list[Change]:
    """Returns what is to be done, in order: at most one pass for where, and one for how bright."""
    changes: list[Change] = []
    if augmentation.rotation or augmentation.translation or augmentation.zoom:
        changes.append(_resample)
    elif augmentation.flip != "none":
        changes.append(_reverse)
    if augmentation.brightness or augmentation.contrast:
        changes.append(_recolour)
    return changes


def _by_column(draws: Any) -> dict[str, Any]:
    return dict(zip(COLUMNS, ops.unstack(draws, len(COLUMNS), axis=1), strict=True))


def _within(reach: float, draws: Any) -> Any:
    """Returns draws from [0, 1) as values within `reach` of 0."""
    return (2 * draws - 1) * reach


def _mirrored(augmentation: Augmentation, drawn: dict[str, Any]) -> dict[int, Any]:
    """Returns which pictures are mirrored, bool `(batch,)`, by the axis that is reversed."""
    ways = {"horizontal": (HORIZONTAL, "across"), "vertical": (VERTICAL, "down")}
    asked = [found for way, found in ways.items() if augmentation.flip in (way, "both")]
    return {axis: drawn[column] < 0.5 for axis, column in asked}


def _reverse(augmentation: Augmentation, images: Any, draws: Any) -> Any:
    """Mirrors the pictures whose draws say so."""
    for axis, chosen in _mirrored(augmentation, _by_column(draws)).items():
        images = ops.where(_per_picture(chosen), ops.flip(images, axis=axis), images)
    return ops.cast(images, "float32")


def _resample(augmentation: Augmentation, images: Any, draws: Any) -> Any:
    """Looks up, for each pixel of the result, where it was before the picture moved.

    A picture is flipped first, then turned, shifted and zoomed, so that the way back runs the
    other way round.
    """
    _, height, width, _ = ops.shape(images)
    drawn = {name: values[:, None, None] for name, values in _by_column(draws).items()}
    middle_x, middle_y = (ops.cast(side - 1, "float32") / 2 for side in (width, height))
    x, y = ops.arange(width, dtype="float32"), ops.arange(height, dtype="float32")
    zoom = 1 + _within(augmentation.zoom, drawn["zoom"])
    shift_x, shift_y = (_within(augmentation.translation, drawn[f"shift_{way}"]) for way in "xy")
    x = zoom * (x[None, None, :] - middle_x) - shift_x * (2 * middle_x + 1)
    y = zoom * (y[None, :, None] - middle_y) - shift_y * (2 * middle_y + 1)
    angle = _within(augmentation.rotation, drawn["rotation"]) * (np.pi / 180)
    x, y = ops.cos(angle) * x - ops.sin(angle) * y, ops.sin(angle) * x + ops.cos(angle) * y
    mirrored = _mirrored(augmentation, drawn)
    x = ops.where(mirrored[HORIZONTAL], -x, x) if HORIZONTAL in mirrored else x
    y = ops.where(mirrored[VERTICAL], -y, y) if VERTICAL in mirrored else y
    return _bilinear(ops.cast(images, "float32"), middle_x + x, middle_y + y)


def _bilinear(images: Any, x: Any, y: Any) -> Any:
    """Returns the pictures at the places `(batch, height, width)`, reflected at their borders."""
    batch, height, width, channels = ops.shape(images)
    left, top = ops.floor(x), ops.floor(y)
    beside, below = (x - left)[..., None], (y - top)[..., None]
    pixels = ops.reshape(images, (-1, channels))
    first = ops.reshape(ops.arange(batch, dtype="int32") * (height * width), (-1, 1, 1))

    def along(row: Any) -> Any:
        start = first + _reflect(row, height) * width
        one = ops.take(pixels, start + _reflect(left, width), axis=0)
        next_one = ops.take(pixels, start + _reflect(left + 1, width), axis=0)
        return one + beside * (next_one - one)

    upper, lower = along(top), along(top + 1)
    return ops.reshape(upper + below * (lower - upper), ops.shape(images))


def _reflect(place: Any, size: Any) -> Any:
    """Folds whole numbers beyond the borders back: d c b a | a b c d | d c b a.

    In floats, which vectorise better than the remainder of integers; the half keeps the quotient
    away from the next whole number.
    """
    place = place - 2 * size * ops.floor((place + 0.5) / (2 * size))
    return ops.cast(ops.minimum(place, 2 * size - 1 - place), "int32")


def _recolour(augmentation: Augmentation, images: Any, draws: Any) -> Any:
    """Scales pixels about the mean of their channel, and shifts them."""
    drawn = {name: _per_picture(values) for name, values in _by_column(draws).items()}
    shift = _within(augmentation.brightness, drawn["brightness"]) * WHITE
    scale = 1 + _within(augmentation.contrast, drawn["contrast"])
    images = ops.cast(images, "float32")
    offset = _channel_means(images) * (1 - scale) + shift
    return ops.clip(images * scale + offset, 0.0, WHITE)


def _channel_means(images: Any) -> Any:
    """Returns the mean of each channel, whose last bits are the same in every batch.

    A sum of floats depends on the order in which they are added, and XLA chooses another one for
    other batches; that of whole numbers does not. Pixels are counted in the smallest power of two
    whose sum has 31 bits: 1/128 for 224 x 224 of them.
    """
    _, height, width, _ = images.shape
    scale = 2.0 ** math.floor(math.log2(2**31 / (WHITE * height * width)))
    whole = ops.cast(ops.round(images * scale), "int32")
    total = ops.cast(ops.sum(whole, axis=(1, 2), keepdims=True), "float32")
    return total / (scale * height * width)


def _per_picture(values: Any) -> Any:
    return values[:, None, None, None]


def _compiled(change: Change, augmentation: Augmentation, images: Any) -> Callable[..., Any]:
    if keras.backend.backend() != "tensorflow":
        return functools.partial(change, augmentation)
    return _compiled_by_shape(change, augmentation, tuple(images.shape[1:]))


@functools.cache
def _compiled_by_shape(
    change: Change, augmentation: Augmentation, shape: tuple[int | None, ...]
) -> Callable[..., Any]:
    """Returns the change through XLA; one a shape, so that other batches are not traced anew."""
    import tensorflow as tf

    def call(images: Any, draws: Any) -> Any:
        return change(augmentation, tf.ensure_shape(images, (None, *shape)), draws)

    compiled: Callable[..., Any] = tf.function(call, jit_compile=True, reduce_retracing=True)
    return compiled
