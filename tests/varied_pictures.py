"""Pictures of all shapes, contents and encodings, made up for tests of preprocessing."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from tests.picture_files import encoded

# (height, width): portrait, landscape, square, smaller than any target, odd, long.
SIZES = (
    (375, 500), (500, 375), (300, 300), (333, 500), (481, 321), (235, 235), (224, 224), (225, 227),
    (97, 131), (64, 48), (150, 100), (31, 33), (257, 255), (601, 399), (480, 640), (640, 360),
    (288, 512), (512, 341), (120, 960), (701, 90), (1, 7), (256, 341), (768, 512), (600, 901),
    (900, 301),
)  # fmt: skip
ENCODINGS: dict[str, dict] = {
    "png": {"kind": "PNG", "compress_level": 1},
    "jpeg 4:2:0": {"kind": "JPEG", "quality": 75},
    "jpeg 4:2:2": {"kind": "JPEG", "quality": 90, "subsampling": 1},
    "jpeg 4:4:4": {"kind": "JPEG", "quality": 95, "subsampling": 0},
    "progressive jpeg": {"kind": "JPEG", "quality": 50, "progressive": True},
    "bmp": {"kind": "BMP"},
    "lossless webp": {"kind": "WEBP", "lossless": True, "method": 0},
}


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def _smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 256, (7, 6, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    start, down, across = rng.uniform(-120, 255, (3, 3))
    return (start + rows[..., None] * down + columns[:, None] * across).clip(0, 255).astype("u1")


def _photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth surfaces with fine grain, as a camera gives them."""
    grain = rng.normal(0, 9, (height, width, 3))
    return (_smooth(rng, height, width) + grain).clip(0, 255).astype(np.uint8)


def _text(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Black lines of one pixel and letters on white: the largest overshoot that there is."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for top in range(0, height, 31):
        draw.text((3, top), "".join(map(chr, rng.integers(33, 123, max(1, width // 7)))), "black")
    for _ in range(8):
        ends = [tuple(end) for end in rng.integers(0, (width, height), (2, 2)).tolist()]
        draw.line(ends, tuple(rng.integers(0, 256, 3).tolist()))
    return np.asarray(image)


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    rows, columns = np.indices((height, width))
    period = rng.integers(2, 9)
    pattern = (rows // period + columns // rng.integers(1, 5)) % 2 * 255
    return np.repeat(pattern.astype(np.uint8)[..., None], 3, axis=-1)


def _grey(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(_photo(rng, height, width)).convert("L"))


CONTENTS: tuple[Callable[[np.random.Generator, int, int], np.ndarray], ...] = (
    _photo, _noise, _text, _smooth, _grey, _gradient, _stripes,
)  # fmt: skip


def varied_pictures(count: int) -> dict[str, bytes]:
    """Returns files by name; any `count` in a row go through all sizes, contents, encodings."""
    files = {}
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        content = CONTENTS[number % len(CONTENTS)]
        name, options = list(ENCODINGS.items())[(number + number // len(CONTENTS)) % len(ENCODINGS)]
        pixels = content(np.random.default_rng(number), height, width)
        label = f"{number:03d} {content.__name__[1:]} {height} x {width} {name}"
        files[label] = encoded(pixels, **options)
    return files
