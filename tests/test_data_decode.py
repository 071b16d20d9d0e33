import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from resnet_keras.data import read_image
from resnet_keras.data.decode import decode
from resnet_keras.errors import DataError
from resnet_keras.records import Recipe
from tests.pictures import make_picture

WHOLE = Recipe(image_size=16, crop=1.0)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(size=16, seed=0):
    return Image.fromarray(make_picture(1, size=size, seed=seed))


def png_16_bit(pixels):
    """A PNG of 16 bits a channel, which Pillow cannot write for RGB."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    )


def huge_png(width, height):
    """The header of a PNG that claims a size, and nothing behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    idat = b"IDAT" + zlib.compress(b"\0")
    data = struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    return b"\x89PNG\r\n\x1a\n" + chunk + data


# Geometry


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # (width, height), what torchvision 0.20 Resize(256) makes of it, and the left and top of
        # its CenterCrop(224): int(256 * long / short) and int(round((side - 224) / 2.0)).
        ((500, 375), ((341, 256), (58, 16))),
        ((375, 500), ((256, 341), (16, 58))),
        ((300, 300), ((256, 256), (16, 16))),
        ((451, 300), ((384, 256), (80, 16))),
        ((100, 333), ((256, 852), (16, 314))),
        ((257, 256), ((257, 256), (16, 16))),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_and_crop_are_those_of_torchvision(size, expected, interpolation):
    image = plain(512).crop((0, 0, *size))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resized, (left, top) = expected
    cut = image.resize(resized, filters[interpolation]).crop((left, top, left + 224, top + 224))
    actual = read_image(encode(image), Recipe(interpolation=interpolation))
    np.testing.assert_array_equal(actual, np.asarray(cut))


def test_a_picture_of_the_right_size_keeps_its_pixels():
    image = plain(16)
    np.testing.assert_array_equal(read_image(encode(image), WHOLE), np.asarray(image))


def test_the_centre_is_cut_without_resampling_where_the_short_side_fits():
    image = plain(32).crop((0, 0, 32, 16))
    actual = read_image(encode(image), Recipe(image_size=8, crop=0.5))
    np.testing.assert_array_equal(actual, np.asarray(image)[4:12, 12:20])


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (40, 2_000), (2_000, 40)])
def test_pictures_of_extreme_proportions_are_cut_while_they_are_resized(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    actual = read_image(encode(image), Recipe(image_size=24, crop=0.75)).astype(int)
    short, long = 32, int(32 * max(size) / min(size))
    whole = image.resize((short, long) if size[0] < size[1] else (long, short), 2)
    left, top = (round((side - 24) / 2.0) for side in whole.size)
    expected = np.asarray(whole.crop((left, top, left + 24, top + 24))).astype(int)
    assert np.abs(actual - expected).max() <= 1  # Pillow keeps the box in single precision


# Large JPEG pictures, decoded at a reduced scale

SMALL = Recipe(image_size=64, crop=1.0)


def ramp(width, height):
    """Grows from left to right, from top to bottom, and along the diagonal."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns / width, rows / height, (rows + columns) / (height + width)], -1)
    return Image.fromarray((255 * pixels).round().astype(np.uint8))


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def shapes(width, height):
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    rng = np.random.default_rng(0)
    for colour in rng.integers(0, 256, (60, 3)).tolist():
        (x, y), radius = rng.integers(0, (width, height)).tolist(), int(rng.integers(5, 200))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(colour), "black", 5)
    return image


def fully_decoded(data, recipe):
    """What `read_image` makes of the pixels of a full decode, which PNG keeps exactly."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return read_image(encode(image.convert("RGB")), recipe).astype(int)


@pytest.mark.parametrize("size", [(1200, 900), (701, 1003), (2051, 1029)])
@pytest.mark.parametrize(("make", "worst"), [(ramp, 3), (noise, 10), (shapes, 30)])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_large_jpegs_are_close_to_their_full_decode(size, make, worst, options):
    data = encode(make(*size), "JPEG", quality=90, **options)
    error = np.abs(read_image(data, SMALL) - fully_decoded(data, SMALL))
    assert error.mean() < 1
    assert error.max() <= worst


@pytest.mark.parametrize(("short", "reduced"), [(64, False), (255, False), (256, True)])
def test_jpegs_below_four_times_the_size_are_decoded_in_full(short, reduced):
    data = encode(noise(300, short), "JPEG")
    assert np.array_equal(read_image(data, SMALL), fully_decoded(data, SMALL)) != reduced


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_jpegs_are_turned_as_exif_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(ramp(705, 1001), "JPEG", quality=95, exif=exif)
    pixels, changes = decode(data, SMALL)
    # A picture shifted by a tenth of a pixel would be off by 0.4 from left to right.
    assert np.abs((pixels - fully_decoded(data, SMALL)).mean(axis=(0, 1))).max() < 0.2
    assert changes == (("exif",) if orientation > 1 else ())


def test_the_whole_size_of_a_large_jpeg_decides_what_is_cut():
    # 625 x 607 becomes 65 x 64, but the 157 x 152 of its reduced decode would become 66 x 64.
    data = encode(ramp(625, 607), "JPEG", quality=95)
    error = read_image(data, SMALL) - fully_decoded(data, SMALL)
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_large_jpegs_of_other_colours_are_close_too(mode):
    data = encode(shapes(1200, 900).convert(mode), "JPEG", quality=90)
    pixels, changes = decode(data, SMALL)
    assert np.abs(pixels - fully_decoded(data, SMALL)).mean() < 1
    assert changes == (("cmyk",) if mode == "CMYK" else ())


def test_the_first_picture_of_a_large_mpo_counts():
    first = shapes(1200, 900)
    data = encode(first, "MPO", save_all=True, append_images=[noise(1200, 900)], quality=90)
    error = np.abs(read_image(data, SMALL) - fully_decoded(encode(first), SMALL))
    assert error.mean() < 2


def test_a_large_jpeg_of_extreme_proportions_keeps_its_proportions():
    data = encode(ramp(300, 6000), "JPEG", quality=95)
    assert np.abs(read_image(data, SMALL) - fully_decoded(data, SMALL)).mean() < 1


@pytest.mark.parametrize("cut", [1, 2, 100, 0.5])
@pytest.mark.parametrize("progressive", [False, True])
def test_large_truncated_jpegs_are_caught(cut, progressive):
    data = encode(noise(701, 523), "JPEG", progressive=progressive)
    cut = cut if cut >= 1 else int(cut * len(data))
    with pytest.raises(DataError, match="truncated or damaged"):
        read_image(data[:-cut], SMALL)


# Colours


def test_grey_becomes_three_equal_channels():
    grey = plain(40).convert("L")
    actual = read_image(encode(grey), WHOLE)
    np.testing.assert_array_equal(actual, read_image(encode(grey.convert("RGB")), WHOLE))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palettes_are_looked_up(kind):
    image = plain().quantize(16)
    actual = read_image(encode(image, kind), WHOLE)
    np.testing.assert_array_equal(actual, np.asarray(image.convert("RGB")))


def test_one_bit_becomes_black_and_white():
    bits = np.indices((16, 16)).sum(0) % 2 == 0
    actual = read_image(encode(Image.fromarray(bits)), WHOLE)
    np.testing.assert_array_equal(actual, np.repeat(bits[..., None] * np.uint8(255), 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("alpha", [0, 64, 255])
def test_alpha_is_composited_on_white(mode, alpha):
    image = plain().convert(mode)
    image.putalpha(alpha)
    pixels, changes = decode(encode(image), WHOLE)
    colour = np.asarray(image.convert("RGB")).astype(float)
    expected = 255 + (colour - 255) * alpha / 255
    np.testing.assert_allclose(pixels, expected, atol=1)
    assert changes == (() if alpha == 255 else ("alpha",))


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_a_transparent_palette_entry_is_white(kind):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 8, 16))
    pixels, changes = decode(encode(image, kind, transparency=0), WHOLE)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 15].tolist() == [0, 0, 255]
    assert changes == ("alpha",)


def test_a_transparent_colour_without_alpha_channel_is_white():
    image = Image.new("RGB", (16, 16), (9, 9, 9))
    assert (read_image(encode(image, transparency=(9, 9, 9)), WHOLE) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels, changes = decode(encode(Image.fromarray(values), kind), WHOLE)
    np.testing.assert_array_equal(pixels[..., 0], np.round(values / 257).astype(np.uint8))
    assert changes == ("16-bit",)


def test_16_bit_colour_is_scaled():
    values = np.random.default_rng(0).integers(0, 65536, (16, 16, 3))
    np.testing.assert_allclose(read_image(png_16_bit(values), WHOLE), values / 257, atol=1)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_pixels_are_refused_by_name(dtype):
    data = encode(Image.fromarray(np.ones((16, 16), dtype)), "TIFF")
    with pytest.raises(DataError, match="32-bit pixels"):
        read_image(data, WHOLE)


def test_cmyk_is_converted():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels, changes = decode(encode(image, "TIFF"), WHOLE)
    assert (pixels == [255, 0, 0]).all()
    assert changes == ("cmyk",)


def test_inverted_cmyk_of_jpeg_files_is_converted():
    pixels = read_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), WHOLE)
    np.testing.assert_allclose(pixels, np.broadcast_to([255, 0, 0], pixels.shape), atol=3)


# EXIF and animations


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_as_exif_says(orientation, kind):
    image = plain()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    data = encode(image, kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(read_image(data, WHOLE), expected)
    assert (orientation == 1) == np.array_equal(expected, np.asarray(image))


def test_a_turned_picture_is_noted():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encode(plain(), "JPEG", exif=exif), WHOLE).changes == ("exif",)


def test_a_broken_exif_block_does_no_harm():
    data = encode(plain(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode(data, WHOLE).changes == ()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_counts(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    pixels, changes = decode(data, WHOLE)
    assert (pixels == [255, 0, 0]).all()
    assert changes == ("animation",)


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "JPEG", "JPEG2000", "WEBP", "PPM", "ICO"])
def test_many_formats_are_read(kind):
    pixels = read_image(encode(plain(), kind), WHOLE).astype(float)
    assert np.abs(pixels - np.asarray(plain())).mean() < 20


def test_progressive_jpeg_is_read():
    data = encode(plain(), "JPEG", progressive=True, quality=95)
    assert np.abs(read_image(data, WHOLE).astype(float) - np.asarray(plain())).mean() < 10


# Content before extension


@pytest.mark.parametrize("extension", ["jpg", "webp", "txt"])
def test_content_decides_and_a_wrong_extension_is_noted(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    path.write_bytes(encode(plain()))
    pixels, changes = decode(path, WHOLE)
    np.testing.assert_array_equal(pixels, np.asarray(plain()))
    assert changes == ("extension",)


@pytest.mark.parametrize(("extension", "kind"), [("jpeg", "JPEG"), ("jpg", "MPO"), ("PNG", "PNG")])
def test_a_right_extension_is_not_noted(tmp_path, extension, kind):
    options = {"save_all": True, "append_images": [plain(seed=1)]} if kind == "MPO" else {}
    path = tmp_path / f"a.{extension}"
    path.write_bytes(encode(plain(), kind, **options))
    assert decode(path, WHOLE).changes == ()


# What is no picture


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html>404</html>", "HTML"),
        (b"<html><body>login</body></html>", "HTML"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"%PDF-1.7 ...", "PDF"),
        ("Grüße, this is text".encode() + "ü".encode()[:1], "text file"),
        (b"\x00\x01\x02\xfe\xff" * 40, "is no picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a text file"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(tmp_path, data, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason) as error:
        read_image(path, WHOLE)
    assert str(error.value).startswith(f"{path} is ")


# The last two bytes of a GIF or PNG are its end mark, before which all pixels lie.
@pytest.mark.parametrize(
    ("kind", "cut"),
    [(kind, cut) for kind in ("JPEG", "WEBP", "BMP", "TIFF", "AVIF") for cut in (1, 2)]
    + [
        (kind, cut)
        for kind in ("JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "PNG")
        for cut in (100, 0.5)
    ],
)
def test_truncated_files_are_caught(kind, cut):
    data = encode(plain(64), kind)
    cut = cut if cut >= 1 else int(cut * len(data))
    with pytest.raises(DataError, match=r"truncated or damaged|no picture"):
        read_image(data[:-cut], WHOLE)


def test_a_png_whose_end_is_missing_is_caught():
    with pytest.raises(DataError, match="truncated"):
        read_image(encode(plain())[:-12], WHOLE)


@pytest.mark.parametrize("where", ["pixels", "checksum"])
def test_a_flipped_bit_in_a_png_is_caught(where):
    data = bytearray(encode(plain(64)))
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start + (length // 2 if where == "pixels" else length)] ^= 1
    with pytest.raises(DataError, match="damaged"):
        read_image(bytes(data), WHOLE)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"b\.jpg cannot be read \(No such file"):
        read_image(tmp_path / "b.jpg", WHOLE)
    with pytest.raises(DataError, match="cannot be read"):
        read_image(str(tmp_path), WHOLE)


@pytest.mark.parametrize("size", [(12_000, 10_000), (30_000, 30_000), (20_000, 8_948)])
def test_huge_pictures_are_refused_before_they_are_decoded(size):
    with warnings.catch_warnings(record=True) as caught, pytest.raises(DataError) as error:
        read_image(huge_png(*size), WHOLE, max_pixels=100_000_000)
    assert "too many pixels" in str(error.value)
    assert not caught


def test_the_pixel_cap_is_inclusive():
    data = encode(plain(20))
    assert read_image(data, WHOLE, max_pixels=400).shape == (16, 16, 3)
    with pytest.raises(DataError, match=r"20 x 20; the cap is 399"):
        read_image(data, WHOLE, max_pixels=399)


def test_heic_is_read_where_its_reader_is_installed():
    pytest.importorskip("pillow_heif")
    from resnet_keras.data.formats import readable_formats

    assert "HEIF" in readable_formats()
    pixels = read_image(encode(plain(), "HEIF", quality=90), WHOLE)
    assert np.abs(pixels.astype(float) - np.asarray(plain())).mean() < 20


def test_heic_names_its_reader_where_that_is_missing():
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    with pytest.raises(DataError, match=r"pip install pillow-heif|damaged"):
        read_image(data, WHOLE)
