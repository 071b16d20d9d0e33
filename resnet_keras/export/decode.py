"""Decoding inside the graph: from the bytes of pictures to what the network sees."""

from __future__ import annotations

import tensorflow as tf

from resnet_keras.export.formats import decode_picture
from resnet_keras.records import Recipe

# Pillow's filters of the same names: the cubic one has a = -0.5.
KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}


def decode_pictures(image_bytes: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Decodes, resizes and crops pictures with TensorFlow ops alone, as `read_image` does.

    JPEG (turned as its EXIF block says), PNG, GIF, BMP and WebP are read by content; of an
    animation the first frame counts, and what is transparent is put on white. EXIF in other
    formats is ignored; BMP of less than 8 bits, or compressed, is refused.

    Args:
        image_bytes: Files, string `(n,)`; n may be 0.
        recipe: Size, crop and interpolation.

    Returns:
        RGB pixels in [0, 255], uint8 `(n, image_size, image_size, 3)`.

    Raises:
        tf.errors.InvalidArgumentError: If one of them is no picture, damaged or too large.

    Example:
        >>> import tensorflow as tf
        >>> from resnet_keras.records import Recipe
        >>> file = tf.io.encode_png(tf.zeros((300, 200, 3), tf.uint8))
        >>> decode_pictures(file[tf.newaxis], Recipe(image_size=64)).shape
        TensorShape([1, 64, 64, 3])
    """
    shape = (recipe.image_size, recipe.image_size, 3)
    pictures = tf.map_fn(
        lambda element: _read(element[0], element[1], recipe),
        (image_bytes, tf.range(tf.size(image_bytes))),
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
    )
    return tf.ensure_shape(pictures, (None, *shape))


def _read(data: tf.Tensor, position: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    name = tf.strings.join(["image_bytes[", tf.strings.as_string(position), "]"])
    return fit(decode_picture(data, name), recipe)


def fit(pixels: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Resizes the short side with antialiasing and cuts the central square out.

    Args:
        pixels: RGB pixels, uint8 `(height, width, 3)`.
        recipe: Size, crop and interpolation.

    Returns:
        RGB pixels, uint8 `(image_size, image_size, 3)`.
    """
    shape = tf.shape(pixels, tf.int64)[:2]
    resized = shape * recipe.resize_to // tf.reduce_min(shape)
    # Half to even, as Python's `round`.
    offset = tf.round(tf.cast(resized - recipe.image_size, tf.float64) / 2)
    window = tf.cast(tf.stack([resized / shape, -offset], axis=1), tf.float32)
    # One side after the other with 8 bits in between, as Pillow: few pixels differ, by 1 of 255.
    height_first = _height_first(shape - resized)
    for axis in (1 - height_first, height_first):
        pixels = _resize_side(pixels, axis, recipe=recipe, window=window)
    return tf.ensure_shape(pixels, (recipe.image_size, recipe.image_size, 3))


def _height_first(lost: tf.Tensor) -> tf.Tensor:
    """Whether Pillow, from 13.0, resizes the height before the width, as 0 or 1.

    Args:
        lost: How many pixels the height and the width lose, int64 `(2,)`.
    """
    return tf.cast((lost[0] > 0) & (lost[0] > 2 * lost[1]), tf.int32)


def _resize_side(
    pixels: tf.Tensor, axis: tf.Tensor, *, recipe: Recipe, window: tf.Tensor
) -> tf.Tensor:
    """Scales one side by `window[axis, 0]`, moves it by `window[axis, 1]` and keeps its beginning.

    What lies outside the square is never computed, however long the picture.
    """
    chosen = tf.range(2) == axis
    # The op behind `tf.image.resize`.
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=pixels[tf.newaxis],
        size=tf.where(chosen, recipe.image_size, tf.shape(pixels)[:2]),
        scale=tf.where(chosen, window[:, 0], 1.0),
        translation=tf.where(chosen, window[:, 1], 0.0),
        kernel_type=KERNELS[recipe.interpolation],
        antialias=True,
    )[0]
    # Pillow rounds a half up.
    return tf.cast(tf.clip_by_value(tf.floor(scaled + 0.5), 0, 255), tf.uint8)
