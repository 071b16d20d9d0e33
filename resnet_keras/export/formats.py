"""The picture formats that TensorFlow decodes, told apart by their first bytes in the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from resnet_keras.data.decode import MAX_PIXELS
from resnet_keras.export.exif import upright

# The sizes of all formats but JPEG, and how a BMP is packed, stand within the first 34 bytes.
HEAD_BYTES = 34
# Of a BMP, before the header that says its own length, and its longest palette.
BMP_FILE_HEADER, BMP_PALETTE = 14, 4 * 256

# Flags of an extended WebP.
WEBP_ALPHA, WEBP_ANIMATION = 0x10, 0x02


@dataclasses.dataclass(frozen=True)
class Format:
    """A picture format.

    Args:
        name: What people call it.
        magic: The bytes that such a file has at these offsets.
        size: From the file and its head to (height, width), without decoding.
        decode: From the file and its head to RGB pixels, uint8 `(height, width, 3)`.
    """

    name: str
    magic: dict[int, bytes]
    size: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

    def matches(self, head: tf.Tensor) -> tf.Tensor:
        """Whether a file with this head is of this format, a scalar bool."""
        places = [at + i for at, magic in self.magic.items() for i in range(len(magic))]
        wanted = [byte for magic in self.magic.values() for byte in magic]
        return tf.reduce_all(tf.gather(head, places) == wanted)


def require(
    condition: tf.Tensor, *, name: tf.Tensor, rule: str, received: tf.Tensor
) -> tf.Operation:
    """Returns the op that stops the graph with one sentence unless the condition holds."""
    message = tf.strings.join([name, tf.constant(f" {rule}. Received: "), received])
    return tf.debugging.Assert(condition, [message])


def decode_picture(data: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
    """Decodes one picture of any of the `FORMATS`.

    Args:
        data: The bytes of the file, a scalar string.
        name: What errors call the picture, a scalar string.

    Returns:
        RGB pixels, uint8 `(height, width, 3)`.
    """
    head = _head(data)
    matches = tf.stack([each.matches(head) for each in FORMATS])
    names = ", ".join(each.name for each in FORMATS)
    known = require(
        tf.reduce_any(matches),
        name=name,
        rule=f"must be a picture in one of the formats {names}",
        received=_described(data),
    )
    with tf.control_dependencies([known]):
        kind = tf.argmax(tf.identity(matches), output_type=tf.int32)
    return tf.switch_case(kind, [_branch(each, data, head=head, name=name) for each in FORMATS])


def _branch(
    each: Format, data: tf.Tensor, *, head: tf.Tensor, name: tf.Tensor
) -> Callable[[], tf.Tensor]:
    def decode() -> tf.Tensor:
        height, width = each.size(data, head)
        fits = require(
            tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= MAX_PIXELS,
            name=name,
            rule=f"must have at most {MAX_PIXELS:,} pixels",
            received=size_text(height, width),
        )
        with tf.control_dependencies([fits]):
            pixels = each.decode(tf.identity(data), head)
        return tf.ensure_shape(pixels, (None, None, 3))

    return decode


def size_text(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Returns "height x width" as a scalar string."""
    return tf.strings.join([tf.strings.as_string(height), " x ", tf.strings.as_string(width)])


def _described(data: tf.Tensor) -> tf.Tensor:
    return tf.strings.join([tf.strings.as_string(tf.strings.length(data)), " bytes"])


def _head(data: tf.Tensor) -> tf.Tensor:
    """Returns the first bytes of a file as int64, zeros behind its end."""
    padded = tf.strings.join([tf.strings.substr(data, 0, HEAD_BYTES), b"\0" * HEAD_BYTES])
    return tf.cast(tf.io.decode_raw(padded, tf.uint8), tf.int64)[:HEAD_BYTES]


def _little(head: tf.Tensor, at: int, count: int) -> tf.Tensor:
    return tf.reduce_sum(head[at : at + count] * [256**place for place in range(count)])


def _big(head: tf.Tensor, at: int, count: int) -> tf.Tensor:
    return tf.reduce_sum(head[at : at + count] * [256**place for place in reversed(range(count))])


def _on_white(pixels: tf.Tensor, alpha: tf.Tensor, *, full: int) -> tf.Tensor:
    """Puts colours in [0, full] on white by their share `alpha` in [0, 1]; returns uint8."""
    colours = tf.cast(pixels, tf.float32) * (255 / full)
    return tf.cast(tf.round(255 + (colours - 255) * alpha), tf.uint8)


def _jpeg_size(data: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.io.extract_jpeg_shape(data)
    return shape[0], shape[1]


def _decode_jpeg(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    # The accurate transform gives Pillow's pixels to the bit; the default is off by up to 3.
    return upright(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"), data)


def _decode_png(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_png(data, channels=4, dtype=tf.uint16)
    # TensorFlow fills a missing alpha with the largest value of the file's own bit depth, and
    # then scales it as if it had eight bits: 1, 3 or 15 of 255 where the depth is 1, 2 or 4.
    depth = tf.minimum(head[24], 8)
    filled = tf.cast((tf.bitwise.left_shift(tf.ones_like(depth), depth) - 1) * 257, tf.uint16)
    alpha = tf.cast(pixels[..., 3:], tf.float32) / 65535
    alpha = tf.where(tf.reduce_all(pixels[..., 3:] == filled), tf.ones_like(alpha), alpha)
    return _on_white(pixels[..., :3], alpha, full=65535)


def _decode_gif(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def _decode_bmp(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    bits = _little(head, 28, 2)
    # TensorFlow has no ops for fewer bits, and takes packed runs of pixels for pixels.
    plain = require(
        (bits >= 24) | ((bits == 8) & (_little(head, 30, 4) == 0)),
        name=tf.constant("a BMP picture"),
        rule="must have 24 or 32 bits a pixel, or 8 that are not compressed",
        received=tf.strings.as_string(bits),
    )
    with tf.control_dependencies([plain]):
        pixels = tf.io.decode_bmp(tf.identity(data), channels=3)
    # TensorFlow takes the places in a palette for grey levels.
    places = tf.cast(pixels[..., 0], tf.int32)
    return tf.cond(bits == 8, lambda: tf.gather(_bmp_palette(data, head), places), lambda: pixels)


def _bmp_palette(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    """Returns the RGB colours of a palette, uint8 `(256, 3)`, black where the file has none."""
    start = BMP_FILE_HEADER + _little(head, 14, 4)
    length = tf.clip_by_value(_little(head, 10, 4) - start, 0, BMP_PALETTE)
    colours = tf.strings.substr(data, start, length)
    padded = tf.strings.substr(tf.strings.join([colours, b"\0" * BMP_PALETTE]), 0, BMP_PALETTE)
    return tf.reshape(tf.io.decode_raw(padded, tf.uint8), (-1, 4))[:, 2::-1]


def _webp_size(data: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    lossless = _little(head, 21, 4)
    extended = (_little(head, 27, 3) + 1, _little(head, 24, 3) + 1)
    plain = (_little(head, 28, 2) % 2**14, _little(head, 26, 2) % 2**14)
    small = (lossless // 2**14 % 2**14 + 1, lossless % 2**14 + 1)
    sizes = tf.stack([plain, small, extended])
    height, width = tf.unstack(sizes[_webp_kind(head)])
    return height, width


def _webp_kind(head: tf.Tensor) -> tf.Tensor:
    """Returns 0 for lossy, 1 for lossless, 2 for extended WebP."""
    return tf.argmax(head[15] == tf.constant([*b" LX"], tf.int64))


def _decode_webp(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    flags = tf.stack([0, head[24], head[20]])[_webp_kind(head)]
    animated = (_webp_kind(head) == 2) & (tf.bitwise.bitwise_and(flags, WEBP_ANIMATION) > 0)
    has_alpha = tf.bitwise.bitwise_and(flags, WEBP_ALPHA) > 0
    data = tf.cond(animated, lambda: _webp_with_alpha(data, flags), lambda: data)
    return tf.cond(
        animated | has_alpha, lambda: _webp_on_white(data), lambda: _webp(data, channels=3)
    )


def _webp_with_alpha(data: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
    """Returns an animation that says it has alpha: TensorFlow refuses those that do not."""
    flag = tf.gather(
        tf.constant([bytes([byte]) for byte in range(256)]),
        tf.bitwise.bitwise_or(flags, WEBP_ALPHA),
    )
    return tf.strings.join([tf.strings.substr(data, 0, 20), flag, tf.strings.substr(data, 21, -1)])


def _webp(data: tf.Tensor, *, channels: int) -> tf.Tensor:
    return tf.io.decode_image(data, channels=channels, expand_animations=False)


def _webp_on_white(data: tf.Tensor) -> tf.Tensor:
    pixels = _webp(data, channels=4)
    alpha = tf.cast(pixels[..., 3:], tf.float32) / 255
    return _on_white(pixels[..., :3], alpha, full=255)


FORMATS = (
    Format("JPEG", {0: b"\xff\xd8\xff"}, _jpeg_size, _decode_jpeg),
    Format(
        "PNG",
        {0: b"\x89PNG\r\n\x1a\n"},
        lambda data, head: (_big(head, 20, 4), _big(head, 16, 4)),
        _decode_png,
    ),
    Format(
        "GIF",
        {0: b"GIF8"},
        lambda data, head: (_little(head, 8, 2), _little(head, 6, 2)),
        _decode_gif,
    ),
    Format(
        "BMP",
        {0: b"BM"},
        # The height is negative where the rows run from top to bottom.
        lambda data, head: (
            tf.minimum(_little(head, 22, 4), 2**32 - _little(head, 22, 4)),
            _little(head, 18, 4),
        ),
        _decode_bmp,
    ),
    Format("WebP", {0: b"RIFF", 8: b"WEBP"}, _webp_size, _decode_webp),
)
