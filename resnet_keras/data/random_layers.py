"""Keras layers that change pictures at random: one resampling for where, one pass for how bright.

The random numbers come from Keras's seed generators, one for each kind of change. What is done
with them is compiled on TensorFlow, which would otherwise write a copy of the batch for each
operation: that takes less than a tenth of the time of Keras's own layers, one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from resnet_keras.layers import PACKAGE

KINDS = ("flip", "rotation", "translation", "zoom", "brightness", "contrast")
WHITE = 255.0


class _RandomLayer(keras.layers.Layer):
    """A layer with a stream of random numbers for each kind of change that it makes."""

    def __init__(self, kinds: Sequence[str], *, seed: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.seed = seed
        states = np.random.SeedSequence(seed).generate_state(len(KINDS))
        # The states of PyTorch have 32 bits and a sign.
        seeds = {kind: int(state) >> 1 for kind, state in zip(KINDS, states, strict=True)}
        self._streams = {kind: keras.random.SeedGenerator(seeds[kind]) for kind in kinds}

    def _uniform(self, kind: str, count: Any, reach: float) -> Any:
        """Draws one value a picture, within `reach` of 0; 0 for kinds that are not asked for."""
        if kind not in self._streams:
            return ops.zeros((count,), "float32")
        return keras.random.uniform((count,), -reach, reach, "float32", self._streams[kind])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return input_shape


@keras.saving.register_keras_serializable(PACKAGE)
class RandomGeometry(_RandomLayer):
    """Flips, zooms, shifts and turns pictures about their middle, each by values of its own.

    All of it together is one bilinear resampling, with the picture's own reflection behind its
    borders; flips alone only reverse the order of the pixels.

    Args:
        flip: Directions in which a picture may be mirrored, each with probability 1/2.
        rotation: Largest turn to either side, in degrees.
        translation: Largest shift in either direction, as a share of the side.
        zoom: Largest change of scale, as a share.
        seed: Each kind of change draws from its own stream of this seed.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(
        self,
        *,
        flip: str = "none",
        rotation: float = 0.0,
        translation: float = 0.0,
        zoom: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        asked = {
            "flip": flip != "none",
            "rotation": rotation,
            "translation": translation,
            "zoom": zoom,
        }
        super().__init__([kind for kind, value in asked.items() if value], seed=seed, **kwargs)
        self.flip, self.rotation, self.translation, self.zoom = flip, rotation, translation, zoom

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Returns the changed pictures in training, else the pictures; float32, same shape."""
        if not training:
            return ops.cast(images, "float32")
        count = ops.shape(images)[0]
        across, down = self._flips(count)
        if not (self.rotation or self.translation or self.zoom):
            return _compiled(_reverse, images)(images, across, down)
        angle = self._uniform("rotation", count, self.rotation) * (np.pi / 180)
        motion = {
            "across": 1 - 2 * ops.cast(across, "float32"),
            "down": 1 - 2 * ops.cast(down, "float32"),
            "shift_y": self._uniform("translation", count, self.translation),
            "shift_x": self._uniform("translation", count, self.translation),
            "zoom": 1 + self._uniform("zoom", count, self.zoom),
            "cosine": ops.cos(angle),
            "sine": ops.sin(angle),
        }
        return _compiled(_resample, images)(images, motion)

    def _flips(self, count: Any) -> list[Any]:
        """Draws whether each picture is mirrored left to right, and top to bottom."""
        ways = [self.flip in (way, "both") for way in ("horizontal", "vertical")]
        return [
            self._uniform("flip", count, 0.5) <= 0 if way else ops.zeros((count,), "bool")
            for way in ways
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the config that rebuilds this layer."""
        names = ("flip", "rotation", "translation", "zoom", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(PACKAGE)
class RandomColour(_RandomLayer):
    """Changes brightness and contrast of pixels in [0, 255], each picture by values of its own.

    The contrast is changed about the mean of each channel; what leaves the range is clipped.

    Args:
        brightness: Largest change of all pixels, as a share of 255.
        contrast: Largest change of the contrast, as a share.
        seed: Each kind of change draws from its own stream of this seed.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(
        self, *, brightness: float = 0.0, contrast: float = 0.0, seed: int = 0, **kwargs: Any
    ) -> None:
        asked = {"brightness": brightness, "contrast": contrast}
        super().__init__([kind for kind, value in asked.items() if value], seed=seed, **kwargs)
        self.brightness, self.contrast = brightness, contrast

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Returns the changed pictures in training, else the pictures; float32, same shape."""
        if not training:
            return ops.cast(images, "float32")
        count = ops.shape(images)[0]
        shift = self._uniform("brightness", count, self.brightness) * WHITE
        scale = 1 + self._uniform("contrast", count, self.contrast)
        return _compiled(_recolour, images)(images, scale, shift)

    def get_config(self) -> dict[str, Any]:
        """Returns the config that rebuilds this layer."""
        names = ("brightness", "contrast", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _reverse(images: Any, across: Any, down: Any) -> Any:
    """Mirrors the pictures whose flags are set."""
    images = ops.where(_per_picture(across), ops.flip(images, axis=2), images)
    images = ops.where(_per_picture(down), ops.flip(images, axis=1), images)
    return ops.cast(images, "float32")


def _resample(images: Any, motion: dict[str, Any]) -> Any:
    """Looks up, for each pixel of the result, where it was before the picture moved.

    A picture is flipped first, then turned, shifted and zoomed, so that the way back runs the
    other way round.
    """
    _, height, width, _ = ops.shape(images)
    move = {name: value[:, None, None] for name, value in motion.items()}
    middle_x, middle_y = (ops.cast(side - 1, "float32") / 2 for side in (width, height))
    x, y = ops.arange(width, dtype="float32"), ops.arange(height, dtype="float32")
    x = move["zoom"] * (x[None, None, :] - middle_x) - move["shift_x"] * (2 * middle_x + 1)
    y = move["zoom"] * (y[None, :, None] - middle_y) - move["shift_y"] * (2 * middle_y + 1)
    before_x = middle_x + move["across"] * (move["cosine"] * x - move["sine"] * y)
    before_y = middle_y + move["down"] * (move["sine"] * x + move["cosine"] * y)
    return _bilinear(ops.cast(images, "float32"), before_x, before_y)


def _bilinear(images: Any, x: Any, y: Any) -> Any:
    """Returns the pictures at the places `(batch, height, width)`, reflected at their borders."""
    batch, height, width, channels = ops.shape(images)
    left, top = ops.floor(x), ops.floor(y)
    beside, below = (x - left)[..., None], (y - top)[..., None]
    column, row = ops.cast(left, "int32"), ops.cast(top, "int32")
    pixels = ops.reshape(images, (-1, channels))
    first = ops.reshape(ops.arange(batch, dtype="int32") * (height * width), (-1, 1, 1))

    def along(row: Any) -> Any:
        start = first + _reflect(row, height) * width
        one = ops.take(pixels, start + _reflect(column, width), axis=0)
        next_one = ops.take(pixels, start + _reflect(column + 1, width), axis=0)
        return one + beside * (next_one - one)

    upper, lower = along(row), along(row + 1)
    return ops.reshape(upper + below * (lower - upper), ops.shape(images))


def _reflect(index: Any, size: Any) -> Any:
    """Folds indices beyond the borders back: d c b a | a b c d | d c b a."""
    index = ops.mod(index, 2 * size)
    return ops.minimum(index, 2 * size - 1 - index)


def _recolour(images: Any, scale: Any, shift: Any) -> Any:
    """Scales pixels about the mean of their channel, and shifts them."""
    images, scale = ops.cast(images, "float32"), _per_picture(scale)
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    return ops.clip(images * scale + (mean * (1 - scale) + _per_picture(shift)), 0.0, WHITE)


def _per_picture(values: Any) -> Any:
    return values[:, None, None, None]


def _compiled(function: Callable[..., Any], images: Any) -> Callable[..., Any]:
    if keras.backend.backend() != "tensorflow":
        return function
    return _compiled_by_shape(function, tuple(images.shape[1:]))


@functools.cache
def _compiled_by_shape(
    function: Callable[..., Any], shape: tuple[int | None, ...]
) -> Callable[..., Any]:
    """Returns the function through XLA; one a shape, so that other batches are not traced anew."""
    import tensorflow as tf

    def call(images: Any, *values: Any) -> Any:
        return function(tf.ensure_shape(images, (None, *shape)), *values)

    compiled: Callable[..., Any] = tf.function(call, jit_compile=True, reduce_retracing=True)
    return compiled
