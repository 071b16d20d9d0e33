import keras
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf

from resnet_keras.data import Augmentation, flip_views
from resnet_keras.data.random_layers import KINDS
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


def seed_of(kind, seed):
    """The seed of a kind's stream: its word of the `SeedSequence`, without the last bit."""
    return int(np.random.SeedSequence(seed).generate_state(len(KINDS))[KINDS.index(kind)]) >> 1


@pytest.mark.parametrize("only", STRONG)
def test_each_field_alone_changes_pictures_in_one_layer(only, pictures):
    layers = Augmentation(**{"flip": "none", only: STRONG[only]}).layers(0)
    kind = "colour" if only in ("brightness", "contrast") else "geometry"
    assert [layer.name for layer in layers] == [f"augment_{kind}"]
    changed = run(layers, pictures)
    assert changed.dtype == np.float32
    assert (changed != pictures).any(axis=(1, 2, 3)).mean() > 0.5


def test_all_fields_together_make_two_layers():
    layers = Augmentation(**STRONG).layers(0)
    assert [layer.name for layer in layers] == ["augment_geometry", "augment_colour"]


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


# Against other implementations, with the same random numbers


@pytest.mark.parametrize(
    ("field", "value", "make"),
    [
        ("flip", "horizontal", lambda **seed: keras.layers.RandomFlip("horizontal", **seed)),
        ("flip", "vertical", lambda **seed: keras.layers.RandomFlip("vertical", **seed)),
        ("rotation", 170, lambda **seed: keras.layers.RandomRotation(170 / 360, **seed)),
        ("translation", 0.9, lambda **seed: keras.layers.RandomTranslation(0.9, 0.9, **seed)),
        ("zoom", 0.9, lambda **seed: keras.layers.RandomZoom((-0.9, 0.9), **seed)),
        ("brightness", 0.9, lambda **seed: keras.layers.RandomBrightness(0.9, **seed)),
    ],
)
def test_each_field_alone_does_what_the_layer_of_keras_does(field, value, make):
    pictures = np.random.default_rng(0).integers(0, 256, (16, 20, 28, 3), np.uint8)
    layers = Augmentation(**{"flip": "none", field: value}).layers(7)
    expected = make(seed=seed_of(field, 7))(pictures.astype(np.float32), training=True)
    tolerance = 0 if field == "flip" else 2e-3  # single precision of places, times 255
    np.testing.assert_allclose(run(layers, pictures), expected, rtol=0, atol=tolerance)


def draws(kind, low, high, count):
    stream = keras.random.SeedGenerator(seed_of(kind, 3))
    return [np.asarray(keras.random.uniform((16,), low, high, seed=stream)) for _ in range(count)]


def test_all_of_the_geometry_is_one_affine_map_by_scipy():
    height, width = 20, 28
    pictures = np.random.default_rng(0).integers(0, 256, (16, height, width, 3), np.uint8)
    fields = {"flip": "both", "rotation": 60, "translation": 0.4, "zoom": 0.5}
    actual = run(Augmentation(**fields).layers(3), pictures)

    across, down = (1 - 2 * (values <= 0.5) for values in draws("flip", 0, 1, 2))
    angle = np.deg2rad(draws("rotation", -60, 60, 1)[0])
    shift_y, shift_x = draws("translation", -0.4, 0.4, 2)
    (zoom,) = draws("zoom", 0.5, 1.5, 1)
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


def test_colour_is_one_line_about_the_mean_of_each_channel():
    pictures = np.random.default_rng(0).integers(0, 256, (16, 20, 28, 3), np.uint8).astype(float)
    actual = run(Augmentation(flip="none", brightness=0.3, contrast=0.8).layers(3), pictures)
    shift = draws("brightness", -0.3, 0.3, 1)[0][:, None, None, None] * 255
    scale = draws("contrast", 0.2, 1.8, 1)[0][:, None, None, None]
    mean = pictures.mean(axis=(1, 2), keepdims=True)
    expected = np.clip((pictures - mean) * scale + mean + shift, 0, 255)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)


# What is drawn

COUNT = 3000
SIDE = 16


def measured(seed=0, **fields):
    """What was drawn for each picture, found from where the pixels in its middle come from."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    picture = np.stack([rows, columns, np.zeros_like(rows)], axis=-1)
    changed = run(Augmentation(**fields).layers(seed), np.tile(picture, (COUNT, 1, 1, 1)))
    at = SIDE // 2 - 1
    corner, right, below = (
        changed[:, *place, :2] for place in [(at, at), (at, at + 1), (at + 1, at)]
    )
    middle = (right + below) / 2 - (SIDE - 1) / 2
    return right - corner, below - corner, middle


def test_rotation_zoom_and_translation_are_uniform_and_independent():
    fields = {"flip": "none", "rotation": 20, "translation": 0.2, "zoom": 0.3}
    right, _, middle = measured(**fields)
    found = {
        "rotation": np.rad2deg(np.arctan2(right[:, 0], right[:, 1])) / 20,
        "zoom": (np.hypot(*right.T) - 1) / 0.3,
    }
    angle = np.deg2rad(20 * found["rotation"])
    # The shift is made before the turn, on the way back.
    y, x = -middle.T / SIDE / 0.2
    found["down"] = np.cos(angle) * y - np.sin(angle) * x
    found["across"] = np.sin(angle) * y + np.cos(angle) * x
    for values in found.values():
        assert scipy.stats.kstest(values, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    correlations = np.corrcoef(list(found.values())) - np.eye(len(found))
    assert np.abs(correlations).max() < 4 / np.sqrt(COUNT)


@pytest.mark.parametrize(("field", "low"), [("brightness", -0.4), ("contrast", 0.6)])
def test_brightness_and_contrast_are_uniform(field, low):
    picture = np.broadcast_to(np.linspace(107, 147, 16).reshape(4, 4, 1), (4, 4, 3))
    layers = Augmentation(**{"flip": "none", field: 0.4}).layers(0)
    changed = run(layers, np.tile(picture, (COUNT, 1, 1, 1)))
    drawn = {
        "brightness": (changed.mean(axis=(1, 2, 3)) - 127) / 255,
        "contrast": np.ptp(changed, axis=(1, 2, 3)) / 40,
    }[field]
    assert scipy.stats.kstest(drawn, scipy.stats.uniform(low, 0.8).cdf).pvalue > 1e-3


@pytest.mark.parametrize("moving", [{}, {"rotation": 1}])
def test_flips_of_both_directions_are_drawn_apart(moving):
    right, below, _ = measured(flip="both", **moving)
    counts = np.histogram2d(np.sign(right[:, 1]), np.sign(below[:, 0]), bins=2)[0]
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("left_out", ["flip", "rotation", "zoom", "translation"])
def test_leaving_one_kind_out_does_not_move_the_others(left_out):
    fields = {"flip": "horizontal", "rotation": 20, "translation": 0.1, "zoom": 0.3}
    right, below, middle = measured(**fields)
    fewer, fewer_below, fewer_middle = measured(
        **{**fields, left_out: 0 if left_out != "flip" else "none"}
    )

    def angle(below):
        return np.arctan2(
            below[:, 1], below[:, 0]
        )  # the same whether or not mirrored, but for a sign

    if left_out != "rotation":
        np.testing.assert_allclose(np.abs(angle(fewer_below)), np.abs(angle(below)), atol=1e-3)
    if left_out != "zoom":
        np.testing.assert_allclose(np.hypot(*fewer.T), np.hypot(*right.T), atol=1e-4)
    if left_out != "translation":
        np.testing.assert_allclose(np.hypot(*fewer_middle.T), np.hypot(*middle.T), atol=1e-3)
    if left_out != "flip":
        np.testing.assert_array_equal(np.sign(fewer[:, 1]), np.sign(right[:, 1]))


def test_colour_and_geometry_draw_apart(pictures):
    alone = Augmentation(flip="none", contrast=0.5).layers(7)[-1]
    among = Augmentation(**{**STRONG, "brightness": 0.0}).layers(7)[-1]
    values = pictures.astype(np.float32)
    np.testing.assert_array_equal(alone(values, training=True), among(values, training=True))


# Inside a network


@pytest.fixture
def network():
    """Augmentation in front of a network, as it is trained, with any number of pictures."""
    inputs = outputs = keras.Input((24, 24, 3))
    for layer in Augmentation(**STRONG).layers(5):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def traced(network, **options):
    signature = [tf.TensorSpec((None, 24, 24, 3))]
    return tf.function(
        lambda images: network(images, training=True), input_signature=signature, **options
    )


def test_a_network_in_training_sees_what_the_layers_make(network, pictures):
    step, layers = traced(network), Augmentation(**STRONG).layers(5)
    batches = [pictures[:16], pictures[:16], pictures[:5]]
    seen = [step(tf.constant(batch, tf.float32)).numpy() for batch in batches]
    for found, batch in zip(seen, batches, strict=True):
        np.testing.assert_allclose(found, run(layers, batch), rtol=0, atol=0.01)
    assert (seen[0] != seen[1]).any(axis=(1, 2, 3)).all()


def test_a_network_can_be_compiled_as_a_whole(network, pictures):
    changed = traced(network, jit_compile=True)(tf.constant(pictures, tf.float32)).numpy()
    assert (changed != pictures).any(axis=(1, 2, 3)).all()
    # The same pictures, elsewhere and in other light.
    assert abs(changed.mean() - pictures.mean()) < 30


def test_random_states_are_no_weights_and_repeat_the_draws(network, pictures):
    states = list(network.variables)
    assert len(states) == 6
    assert network.weights == []
    network(pictures, training=True)
    saved = [np.asarray(state) for state in states]
    first, second = (np.asarray(network(pictures, training=True)) for _ in range(2))
    for state, value in zip(states, saved, strict=True):
        state.assign(value)
    np.testing.assert_array_equal(network(pictures, training=True), first)
    assert (first != second).any()


def test_a_layer_rebuilt_from_its_config_draws_the_same(pictures):
    for layer in Augmentation(**STRONG).layers(5):
        config = keras.saving.serialize_keras_object(layer)
        rebuilt = keras.saving.deserialize_keras_object(config)
        np.testing.assert_array_equal(
            rebuilt(pictures, training=True), layer(pictures, training=True)
        )


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
