import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.data import Augmentation, flip_views
from tests.pictures import make_arrays

STRONG = {
    "flip": "both",
    "rotation": 30,
    "translation": 0.2,
    "zoom": 0.3,
    "brightness": 0.5,
    "contrast": 0.5,
}


@pytest.fixture(scope="module")
def pictures():
    return make_arrays(3, count=16, size=24)[0]


def run(layers, pictures, training=True):
    values = pictures
    for layer in layers:
        values = layer(values, training=training)
    return np.asarray(values)


@pytest.mark.parametrize("only", STRONG)
def test_each_field_makes_one_layer_that_changes_pictures(only, pictures):
    layers = Augmentation(**{"flip": "none", only: STRONG[only]}).layers(0)
    assert [layer.name for layer in layers] == ["augment_pixels", f"augment_{only}"]
    changed = run(layers, pictures)
    assert changed.dtype == np.float32
    assert (changed != pictures).any(axis=(1, 2, 3)).mean() > 0.5


def test_nothing_is_made_of_nothing():
    assert Augmentation(flip="none").layers(0) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_stay_in_their_range(seed, dtype, pictures):
    extreme = np.concatenate([pictures, np.zeros_like(pictures), np.full_like(pictures, 255)])
    changed = run(Augmentation(**STRONG).layers(seed), extreme.astype(dtype))
    assert changed.shape == extreme.shape
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_layers_do_nothing_outside_training(pictures):
    np.testing.assert_array_equal(run(Augmentation(**STRONG).layers(0), pictures, False), pictures)


def test_a_seed_repeats_the_changes_and_another_does_not(pictures):
    first, again, other = (run(Augmentation(**STRONG).layers(seed), pictures) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_leaving_one_change_out_does_not_move_the_others(pictures):
    alone = Augmentation(flip="none", contrast=0.5).layers(7)[-1]
    among = Augmentation(**STRONG).layers(7)[-1]
    values = pictures.astype(np.float32)
    np.testing.assert_array_equal(alone(values, training=True), among(values, training=True))


@pytest.mark.parametrize("field", ["rotation", "translation"])
def test_what_comes_into_view_is_reflected(field):
    # Of a picture of one colour every reflection is that colour; black borders would show.
    plain = np.full((8, 24, 24, 3), 200, np.uint8)
    layers = Augmentation(**{"flip": "none", field: STRONG[field]}).layers(0)
    np.testing.assert_allclose(run(layers, plain), 200, atol=0.01)


def test_layers_work_in_float32_under_a_mixed_policy(pictures):
    layers = Augmentation(**STRONG).layers(0)
    expected = run(layers, pictures)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        actual = run(Augmentation(**STRONG).layers(0), pictures)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(actual, expected)


def test_layers_run_inside_tf_data(pictures):
    layers = Augmentation(**STRONG).layers(0)

    def augment(images):
        for layer in layers:
            images = layer(images, training=True)
        return images

    dataset = tf.data.Dataset.from_tensor_slices(pictures).batch(16).map(augment)
    changed = np.concatenate([batch.numpy() for batch in dataset])
    assert (changed != pictures).any(axis=(1, 2, 3)).all()


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
