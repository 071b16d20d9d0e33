import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf
from keras import layers

from resnet_keras.data import Augment, Augmentation, flip_views
from tests.pictures import make_arrays

STRONG = {
    "flip": "both",
    "rotation": 30,
    "translation": 0.2,
    "zoom": 0.3,
    "brightness": 0.5,
    "contrast": 0.5,
}
# The columns of the draws, as far as a test needs to know them.
ACROSS, DOWN, ROTATION, SHIFT_Y, SHIFT_X, ZOOM, BRIGHTNESS, CONTRAST = range(8)


@pytest.fixture(scope="module")
def pictures():
    return make_arrays(2, count=8, size=24)[0]


def run(augmentation, pictures, draws=None, seed=0):
    draws = augmentation.draws((seed,), len(pictures)) if draws is None else draws
    return np.asarray(Augment(augmentation)([pictures, draws]))


@pytest.mark.parametrize("only", STRONG)
def test_each_field_alone_changes_pictures(only, pictures):
    changed = run(Augmentation(**{"flip": "none", only: STRONG[only]}), pictures)
    assert changed.dtype == np.float32
    assert (changed != pictures).any(axis=(1, 2, 3)).mean() > 0.5


def test_an_augmentation_of_nothing_gives_the_pixels(pictures):
    unchanged = run(Augmentation(flip="none"), pictures)
    assert unchanged.dtype == np.float32
    np.testing.assert_array_equal(unchanged, pictures)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_stay_in_their_range(seed, dtype, pictures):
    extreme = np.concatenate([pictures, np.zeros_like(pictures), np.full_like(pictures, 255)])
    changed = run(Augmentation(**STRONG), extreme.astype(dtype), seed=seed)
    assert changed.shape == extreme.shape
    assert changed.min() >= 0
    assert changed.max() <= 255


# The draws


def test_draws_are_a_function_of_seed_and_index():
    augmentation = Augmentation(**STRONG)
    draws = augmentation.draws((4, 1), 100)
    assert draws.shape == (100, 8)
    assert draws.dtype == np.float32
    np.testing.assert_array_equal(augmentation.draws([4, 1], 100), draws)
    for count in (0, 1, 99):
        np.testing.assert_array_equal(augmentation.draws((4, 1), count), draws[:count])
    for seed in [(4, 2), (5, 1), (4,), (4, 1, 0), (1, 4)]:
        assert not np.isin(augmentation.draws(seed, 100), draws).all(axis=1).any()


def test_draws_are_uniform_and_independent():
    draws = Augmentation().draws((0, 0), 10_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        assert scipy.stats.kstest(column, scipy.stats.uniform.cdf).pvalue > 1e-3
    correlations = np.corrcoef(draws.T) - np.eye(8)
    assert np.abs(correlations).max() < 4 / np.sqrt(len(draws))


def test_draws_do_not_follow_the_order_that_the_same_seed_gives():
    order = np.random.default_rng((3, 0, 1)).random((1000, 8), np.float32)
    draws = Augmentation().draws((3, 0, 1), 1000)
    assert abs(np.corrcoef(order.ravel(), draws.ravel())[0, 1]) < 4 / np.sqrt(draws.size)


@pytest.mark.parametrize("left_out", STRONG)
def test_leaving_one_kind_out_does_not_move_the_others(left_out):
    nothing = "none" if left_out == "flip" else 0
    fewer = Augmentation(**{**STRONG, left_out: nothing}).draws((7, 2), 9)
    np.testing.assert_array_equal(fewer, Augmentation(**STRONG).draws((7, 2), 9))


@pytest.mark.parametrize("size", [24, 33])
@pytest.mark.parametrize("batch_size", [1, 5, 8, 40])
def test_a_picture_gets_the_same_bits_in_every_batch(size, batch_size):
    pictures = make_arrays(4, count=10, size=size)[0]
    augmentation = Augmentation(**STRONG)
    draws = augmentation.draws((0,), 40)
    whole = run(augmentation, pictures, draws)
    order = np.random.default_rng(batch_size).permutation(40)
    for start in range(0, 40, batch_size):
        chosen = order[start : start + batch_size]
        part = run(augmentation, pictures[chosen], draws[chosen])
        np.testing.assert_array_equal(part, whole[chosen])


# Against other implementations, with the same numbers


def drawn_by_keras(seed, columns):
    """Returns draws whose columns hold what a layer of Keras with this seed draws in turn."""
    stream = keras.random.SeedGenerator(seed)
    draws = np.zeros((16, 8), np.float32)
    for column in columns:
        draws[:, column] = keras.random.uniform((16,), seed=stream)
    return draws


@pytest.mark.parametrize(
    ("field", "value", "columns", "make"),
    [
        ("flip", "horizontal", [ACROSS], lambda **seed: layers.RandomFlip("horizontal", **seed)),
        ("flip", "vertical", [DOWN], lambda **seed: layers.RandomFlip("vertical", **seed)),
        ("rotation", 170, [ROTATION], lambda **seed: layers.RandomRotation(170 / 360, **seed)),
        ("translation", 0.9, [SHIFT_Y, SHIFT_X],
         lambda **seed: layers.RandomTranslation(0.9, 0.9, **seed)),
        ("zoom", 0.9, [ZOOM], lambda **seed: layers.RandomZoom((-0.9, 0.9), **seed)),
        ("brightness", 0.9, [BRIGHTNESS],
         lambda **seed: layers.RandomBrightness(0.9, **seed)),
    ],
)  # fmt: skip
def test_each_field_alone_does_what_the_layer_of_keras_does(field, value, columns, make):
    pictures = np.random.default_rng(0).integers(0, 256, (16, 20, 28, 3), np.uint8)
    augmentation = Augmentation(**{"flip": "none", field: value})
    expected = make(seed=7)(pictures.astype(np.float32), training=True)
    tolerance = 0 if field == "flip" else 2e-3  # single precision of places, times 255
    actual = run(augmentation, pictures, drawn_by_keras(7, columns))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def test_flips_alone_only_reverse_the_order_of_the_pixels():
    pictures = np.random.default_rng(0).integers(0, 256, (16, 5, 7, 3), np.uint8)
    augmentation = Augmentation(flip="both")
    draws = augmentation.draws((3,), 16)
    ways = {tuple(np.flatnonzero(row[[DOWN, ACROSS]] < 0.5)) for row in draws}
    assert len(ways) == 4
    for changed, picture, row in zip(
        run(augmentation, pictures, draws), pictures, draws, strict=True
    ):
        axes = tuple(np.flatnonzero(row[[DOWN, ACROSS]] < 0.5))
        np.testing.assert_array_equal(changed, np.flip(picture, axes))


def test_all_of_the_geometry_is_one_affine_map_by_scipy():
    height, width = 20, 28
    pictures = np.random.default_rng(0).integers(0, 256, (16, height, width, 3), np.uint8)
    augmentation = Augmentation(flip="both", rotation=60, translation=0.4, zoom=0.5)
    draws = augmentation.draws((3,), 16)
    actual = run(augmentation, pictures, draws)

    draws = draws.astype(np.float64)
    across, down = (1 - 2 * (draws[:, column] < 0.5) for column in (ACROSS, DOWN))
    signed = 2 * draws - 1
    angle = np.deg2rad(60 * signed[:, ROTATION])
    shift_y, shift_x, zoom = (
        0.4 * signed[:, SHIFT_Y],
        0.4 * signed[:, SHIFT_X],
        1 + 0.5 * signed[:, ZOOM],
    )
    middle = np.array([height - 1, width - 1]) / 2
    for index, picture in enumerate(pictures.astype(np.float64)):
        flip = np.diag([down[index], across[index]])
        cosine, sine = np.cos(angle[index]), np.sin(angle[index])
        turn = np.array([[cosine, sine], [-sine, cosine]])  # rows before columns
        matrix = flip @ turn * zoom[index]
        shift = flip @ turn @ [shift_y[index] * height, shift_x[index] * width]
        expected = [
            scipy.ndimage.affine_transform(
                channel, matrix, middle - matrix @ middle - shift, order=1, mode="reflect"
            )
            for channel in np.moveaxis(picture, -1, 0)
        ]
        np.testing.assert_allclose(actual[index], np.moveaxis(expected, 0, -1), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("height", "width"), [(20, 28), (1, 1), (1, 300), (600, 500)])
def test_colour_is_one_line_about_the_mean_of_each_channel(height, width):
    pictures = np.random.default_rng(0).uniform(0, 255, (4, height, width, 3)).astype(np.float32)
    augmentation = Augmentation(flip="none", brightness=0.3, contrast=0.8)
    draws = augmentation.draws((3,), 4)
    actual = run(augmentation, pictures, draws)
    signed = 2 * draws.astype(np.float64)[:, :, None, None, None] - 1
    shift, scale = 255 * 0.3 * signed[:, BRIGHTNESS], 1 + 0.8 * signed[:, CONTRAST]
    mean = pictures.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    expected = np.clip((pictures - mean) * scale + mean + shift, 0, 255)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("value", [0, 255])
def test_the_contrast_of_one_shade_does_not_change_it(value):
    pictures = np.full((2, 300, 400, 3), value, np.uint8)
    np.testing.assert_array_equal(run(Augmentation(flip="none", contrast=1), pictures), pictures)


# Inside a network


@pytest.fixture
def network():
    """Augmentation in front of a network, as it is trained, with any number of pictures."""
    inputs = [keras.Input((24, 24, 3), dtype="uint8"), keras.Input((8,))]
    return keras.Model(inputs, Augment(Augmentation(**STRONG))(inputs))


def traced(network, count, **options):
    signature = [tf.TensorSpec((count, 24, 24, 3), tf.uint8), tf.TensorSpec((count, 8))]
    return tf.function(
        lambda *inputs: network(inputs, training=True), input_signature=signature, **options
    )


def test_a_network_sees_what_the_layer_makes(network, pictures):
    assert network.variables == []
    step, augmentation = traced(network, None), Augmentation(**STRONG)
    draws = augmentation.draws((5,), 16)
    for count in (16, 5):
        found = step(pictures[:count], draws[:count])
        np.testing.assert_array_equal(found, run(augmentation, pictures[:count], draws[:count]))


@pytest.mark.parametrize("count", [16, None])
def test_a_network_can_be_compiled_as_a_whole(network, pictures, count):
    augmentation = Augmentation(**STRONG)
    draws = augmentation.draws((5,), 16)
    compiled = traced(network, count, jit_compile=True)(pictures, draws)
    np.testing.assert_allclose(compiled, run(augmentation, pictures, draws), rtol=0, atol=1e-3)


def test_a_layer_rebuilt_from_its_config_changes_alike(pictures):
    layer = Augment(Augmentation(**STRONG))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    rebuilt = keras.saving.deserialize_keras_object(config)
    assert (rebuilt.name, rebuilt.augmentation) == ("augment", layer.augmentation)
    inputs = [pictures, layer.augmentation.draws((1,), 16)]
    np.testing.assert_array_equal(rebuilt(inputs), layer(inputs))


def test_the_layer_works_in_float32_under_a_mixed_policy(pictures):
    expected = run(Augmentation(**STRONG), pictures)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        actual = run(Augmentation(**STRONG), pictures)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(actual, expected)


def test_the_layer_runs_inside_tf_data(pictures):
    augmentation = Augmentation(**STRONG)
    layer, draws = Augment(augmentation), augmentation.draws((0,), 16)
    dataset = tf.data.Dataset.from_tensor_slices((pictures, draws)).batch(7)
    found = dataset.map(lambda *inputs: layer(inputs))
    changed = np.concatenate([batch.numpy() for batch in found])
    np.testing.assert_array_equal(changed, run(augmentation, pictures, draws))


_ON_ANOTHER_BACKEND = """
import sys
import keras, numpy as np
from tests.test_data_augment import STRONG, Augmentation, make_arrays, run
assert keras.backend.backend() == "jax"
np.save(sys.argv[1], run(Augmentation(**STRONG), make_arrays(2, count=8, size=24)[0]))
"""


@pytest.mark.slow
def test_jax_changes_pictures_alike(pictures, tmp_path):
    subprocess.run(
        [sys.executable, "-c", _ON_ANOTHER_BACKEND, str(tmp_path / "changed.npy")],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        check=True,
    )
    expected = run(Augmentation(**STRONG), pictures)
    np.testing.assert_allclose(np.load(tmp_path / "changed.npy"), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    "field",
    [
        {"flip": "diagonal"},
        {"rotation": 181},
        {"translation": -0.1},
        {"zoom": 1},
        {"brightness": 1.5},
        {"contrast": float("nan")},
    ],
)
def test_values_out_of_range_are_refused(field):
    with pytest.raises(ValueError, match="Received"):
        Augmentation(**field)


@pytest.mark.parametrize(
    ("flip", "axes"),
    [
        ("none", [()]),
        ("horizontal", [(), (2,)]),
        ("vertical", [(), (1,)]),
        ("both", [(), (2,), (1,), (1, 2)]),
    ],
)
@pytest.mark.parametrize("convert", [np.asarray, tf.constant])
def test_flip_views_are_the_exact_flips(flip, axes, convert):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3))
    views = flip_views(convert(images), flip)
    assert len(views) == len(axes)
    assert all(type(view) is type(convert(images)) for view in views)
    for view, axis in zip(views, axes, strict=True):
        np.testing.assert_array_equal(view, np.flip(images, axis))


def test_an_unknown_flip_is_refused():
    with pytest.raises(ValueError, match="flip='up'"):
        flip_views(np.zeros((1, 2, 2, 3)), "up")
