"""From the bytes of a picture to the square of pixels that a recipe asks for, through Pillow."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from resnet_keras.data.formats import (
    HEAD_BYTES,
    has_other_extension,
    quiet_pillow,
    readable_formats,
    why_not_a_picture,
)
from resnet_keras.errors import DataError
from resnet_keras.records import Recipe

# Where Pillow refuses by itself; 537 MB as RGB.
MAX_PIXELS = 178_956_970

ORIENTATION_TAG = 0x0112
# EXIF 2.32, table 6. `ImageOps.exif_transpose` does the same, but writes the EXIF block anew,
# which fails on the broken ones that cameras leave.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Pictures with sides further apart than this are cut while they are resized.
LONGEST_ASPECT = 16
# JPEG pictures are decoded at a half, a quarter or an eighth of their size as long as this many
# times the size asked for is left, so that the antialiased resize still decides the pixels.
SPARE = 2


class Decoded(NamedTuple):
    """A decoded picture, uint8 `(size, size, 3)`, and the names of what had to be changed."""

    pixels: np.ndarray
    changes: tuple[str, ...]


def read_image(
    source: Path | str | bytes, recipe: Recipe, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Reads one picture as a network with this recipe sees it.

    The file's content decides, not its extension. Pictures are turned as their EXIF block
    says, put on white where they are transparent, and brought to 8 bits a channel; of an
    animation the first frame counts. JPEG pictures of at least four times the recipe's size
    are decoded at a half, a quarter or an eighth of their own, which is faster.

    Args:
        source: Path of a file, or the bytes of one.
        recipe: Size, crop and interpolation.
        max_pixels: Pictures with more pixels are refused before they are decoded.

    Returns:
        RGB pixels in [0, 255], uint8 `(image_size, image_size, 3)`.

    Raises:
        DataError: If the source is missing, damaged, too large or no picture.

    Example:
        >>> import io
        >>> from PIL import Image, UnidentifiedImageError
        >>> from resnet_keras.data import read_image
        >>> from resnet_keras.records import Recipe
        >>> file = io.BytesIO()
        >>> Image.new("L", (300, 200), 128).save(file, "PNG")
        >>> read_image(file.getvalue(), Recipe(image_size=64)).shape
        (64, 64, 3)
    """
    try:
        return decode(source, recipe, max_pixels=max_pixels).pixels
    except DataError as error:
        name = "The picture" if isinstance(source, bytes) else os.fspath(source)
        raise DataError(f"{name} {error}.") from error.__cause__


def decode(
    source: Path | str | bytes | np.ndarray, recipe: Recipe, *, max_pixels: int = MAX_PIXELS
) -> Decoded:
    """Decodes, resizes and crops one picture; a `DataError` says what it "is" or "has"."""
    changes: list[str] = []
    if isinstance(source, np.ndarray):
        image = Image.fromarray(source[..., 0] if source.shape[-1] == 1 else source)
    else:
        image = _read(source, recipe, changes, max_pixels=max_pixels)
    image = _fitted(_as_8_bit(image, changes), recipe)
    return Decoded(np.array(image.convert("RGB")), tuple(changes))


def _read(
    source: Path | str | bytes, recipe: Recipe, changes: list[str], *, max_pixels: int
) -> Image.Image:
    """Decodes a file completely, and turns it as its EXIF block says."""
    try:
        with quiet_pillow, _opened(source) as file:
            image = _checked_header(file, changes, max_pixels=max_pixels)
            if not isinstance(source, bytes) and has_other_extension(
                Path(source).suffix, image.format or ""
            ):
                changes.append("extension")
            image = _loaded(file, image, recipe)
            return _turned(image, changes)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error


def _opened(source: Path | str | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _checked_header(file: IO[bytes], changes: list[str], *, max_pixels: int) -> Image.Image:
    image = _header(file)
    if image.width * image.height > max_pixels:
        raise DataError(
            f"has too many pixels ({image.width} x {image.height}; the cap is {max_pixels:,}); "
            "make it smaller or raise `max_pixels`"
        )
    if _is_animated(image):
        changes.append("animation")
    return image


def _loaded(file: IO[bytes], image: Image.Image, recipe: Recipe) -> Image.Image:
    """Decodes the pixels; a large JPEG comes resized as the recipe says."""
    size, wanted = image.size, SPARE * recipe.resize_to
    reduced = None
    try:
        if image.format == "PNG":
            # Pillow skips the checksums of PNG pixels when it loads them.
            _header(file).verify()
        if max(size) <= LONGEST_ASPECT * min(size):
            reduced = image.draft(None, (wanted, wanted))
        image.load()
    except Exception as error:
        raise DataError(f"is truncated or damaged ({_brief(error)})") from error
    if reduced is None or image.size == size:
        return image
    # The last column and row may reach over the border of the picture; the box does not.
    resampling = RESAMPLING[recipe.interpolation]
    return image.resize(_resized(size, recipe), resampling, box=reduced[1])


def _header(file: IO[bytes]) -> Image.Image:
    file.seek(0)
    try:
        return Image.open(file, formats=readable_formats())
    except UnidentifiedImageError:
        file.seek(0)
        raise DataError(why_not_a_picture(file.read(HEAD_BYTES))) from None
    except Image.DecompressionBombError as error:
        raise DataError(f"has too many pixels ({_brief(error)}); make it smaller") from error
    except Exception as error:
        raise DataError(f"is truncated or damaged ({_brief(error)})") from error


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _is_animated(image: Image.Image) -> bool:
    # The further pictures of an MPO are a camera's previews. A later frame may be damaged.
    with contextlib.suppress(Exception):
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return False


def _turned(image: Image.Image, changes: list[str]) -> Image.Image:
    turn = None
    with contextlib.suppress(Exception):  # a broken EXIF block says nothing
        turn = TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    if turn is None:
        return image
    changes.append("exif")
    return image.transpose(turn)


def _as_8_bit(image: Image.Image, changes: list[str]) -> Image.Image:
    """Brings any picture to RGB on white; grey stays grey, as it is resized three times faster."""
    # Portable grey maps of more than 8 bits come as 32-bit integers, scaled to 16 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        changes.append("16-bit")
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        raise DataError(
            f"has 32-bit pixels (mode {image.mode}), whose range is not known; "
            "save it with 8 or 16 bits a channel"
        )
    if image.mode == "CMYK":
        changes.append("cmyk")
    if image.has_transparency_data:
        return _on_white(image, changes)
    try:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    except ValueError as error:
        raise DataError(f"has colours of a kind that is not known ({image.mode})") from error


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255.
    pixels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))


def _on_white(image: Image.Image, changes: list[str]) -> Image.Image:
    image = image.convert("RGBA")
    if np.asarray(image)[..., 3].min() < 255:
        changes.append("alpha")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _fitted(image: Image.Image, recipe: Recipe) -> Image.Image:
    """Resizes the short side and cuts out the centre, with the roundings of torchvision."""
    side = recipe.image_size
    width, height = _resized(image.size, recipe)
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    cut = (left, top, left + side, top + side)
    resampling = RESAMPLING[recipe.interpolation]
    if max(width, height) <= LONGEST_ASPECT * min(width, height):
        return image.resize((width, height), resampling).crop(cut)
    # The whole of a picture of 1 x 10,000 pixels would take gigabytes; this cuts as it resizes.
    across, down = image.width / width, image.height / height
    box = (
        cut[0] * across,
        cut[1] * down,
        min(cut[2] * across, image.width),
        min(cut[3] * down, image.height),
    )
    return image.resize((side, side), resampling, box=box)


def _resized(size: tuple[int, int], recipe: Recipe) -> tuple[int, int]:
    """Returns width and height of the resized picture, before its centre is cut out."""
    short, (width, height) = recipe.resize_to, size
    long = int(short * max(size) / min(size))
    return (short, long) if width <= height else (long, short)
