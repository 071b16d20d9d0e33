"""Encoded pictures of all kinds that are decoded, for tests of decoding."""

import io

import numpy as np
from PIL import Image


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 256, (6, 5, channels), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)


def _rgba(height: int, width: int) -> Image.Image:
    return Image.fromarray(smooth(height, width, 4))


def _transparent_palette() -> bytes:
    return encoded(Image.fromarray(smooth(90, 70)).quantize(12), "PNG", transparency=3)


def _animated_webp(first: np.ndarray, second: np.ndarray, **options) -> bytes:
    more = [Image.fromarray(second)]
    return encoded(first, "WEBP", save_all=True, append_images=more, **options)


def turned(orientation: int, *, byte_order: str) -> bytes:
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    return encoded(smooth(90, 50), "JPEG", exif=exif)


PICTURES = {
    "jpeg": encoded(smooth(90, 70), "JPEG"),
    "jpeg of noise": encoded(noise(90, 70), "JPEG"),
    "progressive jpeg": encoded(smooth(90, 70), "JPEG", progressive=True),
    "grey jpeg": encoded(Image.fromarray(smooth(90, 70)).convert("L"), "JPEG"),
    "CMYK jpeg": encoded(Image.fromarray(smooth(90, 70)).convert("CMYK"), "JPEG"),
    "png": encoded(smooth(90, 70), "PNG"),
    "png of noise": encoded(noise(90, 71), "PNG"),
    "grey png": encoded(smooth(90, 70, 3)[..., 0], "PNG"),
    "black and white png": encoded(Image.fromarray(smooth(90, 70)).convert("1"), "PNG"),
    "palette png": encoded(Image.fromarray(smooth(90, 70)).quantize(200), "PNG"),
    "small palette png": encoded(Image.fromarray(smooth(90, 70)).quantize(12), "PNG"),
    "transparent palette png": _transparent_palette(),
    "transparent png": encoded(_rgba(90, 70), "PNG"),
    "transparent grey png": encoded(_rgba(90, 70).convert("LA"), "PNG"),
    "16-bit png": encoded(smooth(90, 70)[..., 0].astype(np.uint16) * 250 + 99, "PNG"),
    "gif": encoded(smooth(90, 70), "GIF"),
    "animated gif": encoded(
        smooth(90, 70), "GIF", save_all=True, append_images=[Image.fromarray(noise(90, 70))]
    ),
    "bmp": encoded(smooth(90, 70), "BMP"),
    "grey bmp": encoded(smooth(90, 70)[..., 0], "BMP"),
    "palette bmp": encoded(Image.fromarray(smooth(90, 71)).quantize(256), "BMP"),
    "small palette bmp": encoded(Image.fromarray(smooth(90, 70)).quantize(12), "BMP"),
    "webp": encoded(smooth(90, 70), "WEBP"),
    "lossless webp": encoded(smooth(90, 70), "WEBP", lossless=True),
    "transparent webp": encoded(_rgba(90, 70), "WEBP"),
    "lossless transparent webp": encoded(_rgba(90, 70), "WEBP", lossless=True),
    "animated webp": _animated_webp(smooth(90, 70), noise(90, 70)),
    "lossless animated webp": _animated_webp(smooth(90, 70), noise(90, 70), lossless=True),
    "transparent animated webp": _animated_webp(smooth(90, 70, 4), smooth(90, 70, 4)[::-1]),
    "enlarged": encoded(smooth(11, 13), "PNG"),
    "not resized": encoded(noise(37, 37), "PNG"),
    "one pixel": encoded(noise(1, 1), "PNG"),
    "a line": encoded(noise(1, 4000), "PNG"),
    **{
        f"exif {orientation} {order}": turned(orientation, byte_order=order)
        for orientation in range(1, 9)
        for order in "<>"
    },
}
