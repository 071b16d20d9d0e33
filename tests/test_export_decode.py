"""Decoding in the graph: as the training data were decoded, or a clear error."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_keras.data import read_image
from resnet_keras.export import decode_pictures
from resnet_keras.records import Recipe
from tests.picture_files import PICTURES, encoded, noise, smooth, turned

SIDE = 32
RECIPE = Recipe(image_size=SIDE)


@functools.cache
def decoder(recipe: Recipe):
    return tf.function(
        lambda files: decode_pictures(files, recipe),
        input_signature=[tf.TensorSpec((None,), tf.string)],
    )


@pytest.fixture(scope="module", params=["bilinear", "bicubic"])
def recipe_and_decoder(request):
    recipe = dataclasses.replace(RECIPE, interpolation=request.param)
    return recipe, decoder(recipe)


@pytest.mark.parametrize("kind", PICTURES)
def test_the_graph_decodes_as_the_training_data_were_decoded(recipe_and_decoder, kind):
    recipe, decode = recipe_and_decoder
    found = decode(tf.constant([PICTURES[kind]]))[0].numpy()
    expected = read_image(PICTURES[kind], recipe)
    difference = np.abs(found.astype(float) - expected)
    # Sums that end near a half, as many do in black and white, are rounded to either side.
    assert difference.max() <= 1
    assert difference.mean() < (0.3 if kind == "black and white png" else 0.05)


@pytest.mark.parametrize(
    "size",
    [(90, 70), (70, 91), (64, 64), (65, 300), (37, 38), (33, 1000), (300, 90), (140, 70), (99, 9)],
)
@pytest.mark.parametrize("crop", [0.875, 1.0, 0.8])
def test_the_crop_is_where_pillow_cuts_it(size, crop):
    recipe = Recipe(image_size=SIDE, crop=crop)
    file = encoded(noise(*size), "PNG")
    found = decoder(recipe)(tf.constant([file]))[0].numpy()
    difference = np.abs(found.astype(float) - read_image(file, recipe))
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_pictures_of_many_sizes_and_formats_make_one_batch():
    files = tf.constant(list(PICTURES.values()))
    batch = decoder(RECIPE)(files).numpy()
    assert batch.shape == (len(PICTURES), SIDE, SIDE, 3)
    single = decode_pictures(files[5:6], RECIPE)[0].numpy()
    np.testing.assert_array_equal(batch[5], single)


@pytest.mark.parametrize("cut", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "kind",
    ["jpeg", "exif 6 <", "png", "gif", "bmp", "palette bmp", *(k for k in PICTURES if "webp" in k)],
)
def test_truncated_pictures_are_refused(recipe_and_decoder, kind, cut):
    data = PICTURES[kind]
    with pytest.raises(tf.errors.OpError):
        recipe_and_decoder[1](tf.constant([data[: int(cut * len(data))]]))


# The header says that pixels are packed as runs.
RUN_LENGTHS = PICTURES["palette bmp"][:30] + b"\1" + PICTURES["palette bmp"][31:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(Image.fromarray(smooth(9, 9)).convert("1"), "BMP"), "must have 24 or 32 bits"),
        (RUN_LENGTHS, "that are not compressed. Received: 8"),
        (encoded(smooth(9, 9), "TIFF"), "must be a picture in one of the formats JPEG, PNG"),
    ],
)
def test_kinds_that_tensorflow_would_misread_are_refused(data, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode_pictures(tf.constant([data]), RECIPE)


HUGE = (30_000).to_bytes(4, "big")
HUGE_LITTLE = (30_000).to_bytes(2, "little")


@pytest.mark.parametrize(
    "data",
    [
        PICTURES["png"][:16] + HUGE + HUGE + PICTURES["png"][24:],
        PICTURES["gif"][:6] + HUGE_LITTLE + HUGE_LITTLE + PICTURES["gif"][10:],
        PICTURES["bmp"][:18] + HUGE[::-1] + HUGE[::-1] + PICTURES["bmp"][26:],
        PICTURES["jpeg"].replace(
            b"\x00\x11\x08\x00\x5a\x00\x46", b"\x00\x11\x08" + HUGE[2:] + HUGE[2:]
        ),
    ],
    ids=["png", "gif", "bmp", "jpeg"],
)
def test_huge_pictures_are_refused_before_they_are_decoded(data):
    message = r"image_bytes\[0\] must have at most 178,956,970 pixels. Received: 30000 x 30000"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode_pictures(tf.constant([data]), RECIPE)


def test_a_broken_exif_block_says_nothing():
    data = turned(6, byte_order="<")
    start = data.index(b"Exif\0\0") + 6
    broken = data[: start + 4] + b"\xff\xff\xff\x7f" + data[start + 8 :]
    plain = encoded(smooth(90, 50), "JPEG")
    np.testing.assert_array_equal(
        decode_pictures(tf.constant([broken]), RECIPE),
        decode_pictures(tf.constant([plain]), RECIPE),
    )
