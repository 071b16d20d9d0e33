"""The orientation tag of a JPEG, read and obeyed inside the graph."""

from __future__ import annotations

import tensorflow as tf

# Cameras put the block right behind the file's first marker; 256 KiB leave room for others.
SEARCHED_BYTES = 1 << 18
# Segment APP1, two bytes of length, then the name of the block.
_MARK = (0xFF, 0xE1, None, None, *b"Exif", 0, 0)
_ORIENTATION_TAG = 0x0112
_ENTRY_BYTES = 12


def upright(pixels: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """Turns a decoded JPEG as its EXIF orientation says (EXIF 2.32, table 6).

    Args:
        pixels: The decoded picture, `(height, width, channels)`.
        data: The JPEG file, a scalar string.

    Returns:
        The picture as it was meant to be seen; height and width change places for 5 to 8.
    """
    orientation = orientation_of(data)
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
    flips = [_is_in(orientation, (3, 4, 7, 8)), _is_in(orientation, (2, 3, 6, 7)), False]
    return tf.raw_ops.Reverse(tensor=pixels, dims=tf.stack(flips))


def orientation_of(data: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG, an int32 in [1, 8]; 1 where it says nothing."""
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, SEARCHED_BYTES), tf.uint8), tf.int32)
    places = tf.where(_matches(head))[:, 0]
    return tf.cond(
        tf.size(places) > 0,
        lambda: _orientation(head[tf.cast(places[0], tf.int32) + len(_MARK) :]),
        lambda: tf.constant(1),
    )


def _orientation(tiff: tf.Tensor) -> tf.Tensor:
    little = _read(tiff, 0, size=1, little=True) == ord("I")
    directory = _read(tiff, 4, size=4, little=little)
    count = _read(tiff, directory, size=2, little=little)
    entries = directory + 2 + _ENTRY_BYTES * tf.range(count)
    tags = _read(tiff, entries, size=2, little=little)
    values = _read(tiff, entries + 8, size=2, little=little)
    found = tf.boolean_mask(values, (tags == _ORIENTATION_TAG) & (values >= 1) & (values <= 8))
    return tf.concat([found, [1]], axis=0)[0]


def _matches(head: tf.Tensor) -> tf.Tensor:
    """Returns for each position whether the block starts there."""
    count = tf.maximum(tf.size(head) - len(_MARK) + 1, 0)
    same = [
        head[place : place + count] == byte for place, byte in enumerate(_MARK) if byte is not None
    ]
    return tf.reduce_all(tf.stack(same), axis=0)


def _read(
    tiff: tf.Tensor, at: tf.Tensor | int, *, size: int, little: tf.Tensor | bool
) -> tf.Tensor:
    """Returns the numbers of `size` bytes at the offsets `at`; what is outside the file is 0."""
    places = tf.convert_to_tensor(at)[..., tf.newaxis] + tf.range(size)
    inside = (places >= 0) & (places < tf.size(tiff))
    padded = tf.concat([tiff, [0]], axis=0)
    digits = tf.gather(padded, tf.where(inside, places, tf.size(tiff)))
    digits = tf.where(little, tf.reverse(digits, axis=[-1]), digits)
    return tf.reduce_sum(digits * [256**power for power in reversed(range(size))], axis=-1)


def _is_in(value: tf.Tensor, choices: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(value == tf.constant(choices))
