"""The head: what it computes, which of it trains when, and its way through files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.builder import build_resnet
from resnet_keras.data import Augmentation, load_images
from resnet_keras.errors import WeightsError
from resnet_keras.folding import Folded
from resnet_keras.layers import is_head, record_of
from resnet_keras.records import Recipe
from resnet_keras.stages import freeze, split_at, unfreeze
from resnet_keras.training import Phase, fine_tune
from resnet_keras.weights import load_weights, save_weights
from tests.pictures import make_arrays

THIN = {"depth": 18, "width": 0.125, "zero_init_residual": False}


def build(normalization="none", activation="relu", **arguments):
    keras.utils.set_random_seed(0)
    design = {"head_normalization": normalization, "head_activation": activation}
    return build_resnet(**THIN | {"num_classes": 3, "head": (8,)} | design | arguments)


def shake(model):
    """Gives every weight of the head a value of its own; returns them by layer."""
    rng = np.random.default_rng(3)
    for layer in model.layers:
        if is_head(layer.name):
            layer.set_weights([rng.uniform(0.2, 1.2, weight.shape) for weight in layer.weights])
    return {
        layer.name: [np.asarray(weight, np.float64) for weight in layer.weights]
        for layer in model.layers
    }


def normalised(x, weights, kind):
    """A second implementation of both norms, in numpy, in inference mode."""
    if kind == "none":
        return x
    gamma, beta, *statistics = weights
    if kind == "layer":
        statistics = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    mean, variance = statistics
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


# Phi of the exact GELU by the error function, as in the paper.
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + tf.math.erf(x / np.sqrt(2)).numpy()),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_follow_the_formula(normalization, activation):
    model = build(normalization, activation, dropout=0.3)
    weights = shake(model)
    pool, rest = split_at(model, "pool")
    features = np.random.default_rng(0).normal(0, 2, (5, pool.output.shape[-1]))
    x = normalised(features, weights.get("head_1_norm"), normalization)
    kernel, bias = weights["head_1_dense"]
    x = ACTIVATIONS[activation](x @ kernel + bias)
    x = normalised(x, weights.get("head_norm"), normalization)
    kernel, bias = weights["logits"]
    np.testing.assert_allclose(rest(features), x @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_the_layers_come_in_the_order_norm_dropout_dense_activation():
    model = build("batch", "silu", head=(8, 4), dropout=0.5)
    assert [layer.name for layer in model.layers if is_head(layer.name)] == [
        "head_pool",
        "head_1_norm", "head_1_dropout", "head_1_dense", "head_1_silu",
        "head_2_norm", "head_2_dropout", "head_2_dense", "head_2_silu",
        "head_norm", "head_dropout", "logits",
    ]  # fmt: skip


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_the_head_computes_in_float32_whatever_the_rest_does(normalization):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(normalization, "gelu")
    finally:
        keras.config.set_dtype_policy("float32")
    head = [layer for layer in model.layers if is_head(layer.name)]
    assert {layer.compute_dtype for layer in head} == {"float32"}
    assert model.get_layer("stage4_block2_out").compute_dtype == "bfloat16"


@pytest.mark.parametrize("batch_norm", ["frozen", "affine", "train", "synchronized"])
def test_the_norm_of_the_head_trains_with_it_whatever_holds_for_the_backbone(batch_norm):
    model = build("batch")
    freeze(model, through="pool")
    unfreeze(model, start="stage4", batch_norm=batch_norm)
    norms = [model.get_layer(name) for name in ("head_1_norm", "head_norm")]
    before = [[np.copy(weight) for weight in norm.weights] for norm in norms]
    pictures = np.random.default_rng(0).uniform(0, 255, (8, 64, 64, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(pictures, training=True) ** 2)
    trained = [norm.gamma for norm in norms]
    assert all(np.any(gradient) for gradient in tape.gradient(loss, trained))
    for norm, (*_, mean, variance) in zip(norms, before, strict=True):
        assert not np.array_equal(norm.moving_mean, mean)
        assert not np.array_equal(norm.moving_variance, variance)
        assert norm.synchronized is (batch_norm == "synchronized")


def test_freezing_the_backbone_leaves_the_norm_of_the_head_alone():
    model = build("batch")
    freeze(model, through="pool")
    assert model.get_layer("head_norm").trainable
    backbone = [layer for layer in model.layers if not is_head(layer.name)]
    assert not any(layer.trainable for layer in backbone if isinstance(layer, BatchNorm))


@pytest.fixture(scope="module")
def data():
    pictures, labels = make_arrays(3, count=16, size=32)
    recipe = Recipe(image_size=32, crop=1.0)
    return load_images(
        pictures, labels=labels, recipe=recipe, batch_size=8, validation=0.25, test=0.25
    )


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_a_run_with_such_a_head_is_read_back_whole(data, tmp_path, normalization, caplog):
    model = build(normalization, "silu", dropout=0.2)
    result = fine_tune(
        model, data, run_dir=tmp_path / "run", phases=[Phase("head", epochs=2)], quiet=True,
        augmentation=Augmentation(flip="none"),
    )  # fmt: skip
    caplog.clear()
    rebuilt = build_resnet(weights=tmp_path / "run")
    assert "The head is new" not in caplog.text
    spec = record_of(rebuilt).spec
    assert (spec.head_normalization, spec.head_activation) == (normalization, "silu")
    assert record_of(rebuilt) == record_of(result.model)
    pictures = data.test.pictures(np.arange(4)).astype(np.float32)
    expected = np.asarray(result.model(pictures, training=False))
    np.testing.assert_array_equal(rebuilt(pictures, training=False), expected)
    loaded = keras.models.load_model(tmp_path / "run" / "model.keras")
    np.testing.assert_array_equal(loaded(pictures, training=False), expected)
    np.testing.assert_allclose(Folded(rebuilt)(pictures), expected, rtol=1e-4, atol=1e-4)
    if normalization == "batch":
        # Its statistics began at 0 and 1, and the backbone was frozen.
        norm = rebuilt.get_layer("head_1_norm")
        assert np.any(norm.moving_mean)
        assert not np.array_equal(norm.moving_variance, np.ones_like(norm.moving_variance))


@pytest.mark.parametrize(
    "other",
    [
        {"head_normalization": "layer"},
        {"head_activation": "gelu"},
        {"head": (8, 8)},
        {"pooling": "max"},
    ],
)
def test_a_head_of_another_design_is_new(tmp_path, caplog, other):
    model = build("batch")
    shake(model)
    saved = save_weights(model, tmp_path / "head.safetensors")
    found = build_resnet(weights=saved, **other)
    assert "The head is new: that of 'random' has other inputs or layers" in caplog.text
    assert not np.array_equal(found.get_layer("logits").kernel, model.get_layer("logits").kernel)
    np.testing.assert_array_equal(
        found.get_layer("stage4_block2_2_conv").kernel,
        model.get_layer("stage4_block2_2_conv").kernel,
    )


def test_an_activation_means_nothing_to_a_head_without_hidden_layers(tmp_path, caplog):
    model = build(head=())
    saved = save_weights(model, tmp_path / "head.safetensors")
    found = build_resnet(weights=saved, head_activation="gelu")
    assert "The head is new" not in caplog.text
    np.testing.assert_array_equal(
        found.get_layer("logits").kernel, model.get_layer("logits").kernel
    )


def test_a_norm_that_the_weights_lack_is_named(tmp_path):
    saved = save_weights(build(), tmp_path / "head.safetensors")
    model = build("layer")
    with pytest.raises(WeightsError, match="missing in the weights: head_1_norm/beta"):
        load_weights(model, saved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalization": "group"}, "`head_normalization` must be one of .*'group'"),
        ({"activation": "tanh"}, "`head_activation` must be one of .*'tanh'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
