"""Weights that fit another network: input channels, classes, heads, graphs without bias."""

import dataclasses
import logging

import keras
import numpy as np
import pytest

from resnet_keras import build_resnet, load_weights, save_weights
from resnet_keras.builder import build_network
from resnet_keras.errors import WeightsError
from resnet_keras.layers import record_of
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import Weights, read_weights

RECIPE = Recipe(32, 1.0, "bilinear", (100.0, 110.0, 120.0), (50.0, 50.0, 50.0))
NAMES = ("tabby", "lynx", "beagle", "pug")


def _randomised(model):
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return model


def _weights(tmp_path, *, recipe=RECIPE, classes=4, **spec):
    spec = ResNetSpec(**{"depth": 18, "width": 0.125, **spec})
    record = Record(spec, recipe, NAMES[:classes], "pets", "made here", "MIT")
    model = _randomised(build_network(record, num_classes=classes))
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name == "bias":
                variable.assign(np.random.default_rng(1).normal(0, 1, variable.shape))
    return model, read_weights(save_weights(model, tmp_path / "pets.safetensors"))


@pytest.fixture
def pixels():
    return np.random.default_rng(3).uniform(0, 255, (2, 32, 32, 3)).astype("float32")


def test_one_channel_gives_what_three_equal_colours_gave(tmp_path, pixels, caplog):
    # With one mean and deviation for all colours the equality is exact.
    model, weights = _weights(tmp_path, recipe=Recipe(32, 1.0, "bilinear", (9.0,) * 3, (5.0,) * 3))
    grey = build_resnet(weights=weights, input_shape=(None, None, 1))
    expected = model(np.repeat(pixels[..., :1], 3, axis=-1))
    largest = np.abs(expected).max()
    np.testing.assert_allclose(grey(pixels[..., :1]), expected, rtol=1e-4, atol=1e-6 * largest)
    assert record_of(grey).recipe.mean == (9.0,)
    assert "takes 3 input channels and the model 1: the first kernels were summed" in caplog.text


def test_more_channels_repeat_the_colours_and_keep_the_size_of_the_features(tmp_path, pixels):
    model, weights = _weights(tmp_path)
    five = build_resnet(weights=weights, input_shape=(None, None, 5), num_classes=None)
    assert record_of(five).recipe.mean == (100.0, 110.0, 120.0, 100.0, 110.0)
    kernel = np.asarray(model.get_layer("stem_conv").kernel)
    np.testing.assert_allclose(
        five.get_layer("stem_conv").kernel,
        np.concatenate([kernel, kernel[:, :, :2]], axis=2) * 0.6,
        rtol=1e-6,
    )
    six = build_resnet(weights=weights, input_shape=(None, None, 6))
    twice = np.concatenate([pixels, pixels], axis=-1)
    np.testing.assert_allclose(six(twice), model(pixels), rtol=1e-4, atol=1e-5)


def test_a_deep_stem_takes_other_channels_too(tmp_path):
    _, weights = _weights(tmp_path, variant="d")
    grey = build_resnet(weights=weights, input_shape=(None, None, 1))
    assert grey.get_layer("stem_1_conv").kernel.shape == (3, 3, 1, 32)


def test_another_number_of_classes_gives_a_new_head_and_says_so(tmp_path, caplog):
    _, weights = _weights(tmp_path)
    model = build_resnet(weights=weights, num_classes=7)
    assert model.output.shape == (None, 7)
    assert record_of(model).class_names == ()
    assert "The head is new: the model has 7 classes, 'pets' 4" in caplog.text


def test_kept_classes_keep_their_logits(tmp_path, pixels):
    model, weights = _weights(tmp_path)
    kept = build_resnet(weights=weights, keep_classes=("pug", "tabby"))
    expected = np.asarray(model(pixels))[:, [3, 0]]
    np.testing.assert_allclose(kept(pixels), expected, rtol=1e-5, atol=1e-6)
    assert record_of(kept).class_names == ("pug", "tabby")


def test_a_coarse_class_has_the_mean_of_its_rows(tmp_path, pixels):
    model, weights = _weights(tmp_path)
    coarse = {"cat": ["tabby", "lynx"], "dog": ["beagle", "pug"], "lynx": "lynx"}
    logits = np.asarray(model(pixels))
    expected = np.stack([logits[:, :2].mean(1), logits[:, 2:].mean(1), logits[:, 1]], axis=1)
    found = build_resnet(weights=weights, keep_classes=coarse)
    np.testing.assert_allclose(found(pixels), expected, rtol=1e-4, atol=1e-5)
    assert record_of(found).class_names == ("cat", "dog", "lynx")


def test_classes_that_are_not_there_are_named(tmp_path):
    _, weights = _weights(tmp_path)
    with pytest.raises(WeightsError, match=r"lacks 'tabbi'. Did you mean 'tabby'"):
        build_resnet(weights=weights, keep_classes=("tabbi",))
    with pytest.raises(ValueError, match="`keep_classes` needs weights and decides"):
        build_resnet(18, keep_classes=("a",))
    with pytest.raises(ValueError, match="`keep_classes` needs weights and decides"):
        build_resnet(weights=weights, keep_classes=("pug",), num_classes=4)
    headless = Weights(dataclasses.replace(weights.record, class_names=()), weights.tensors)
    with pytest.raises(WeightsError, match="needs weights with a head and names"):
        build_resnet(weights=headless, keep_classes=("pug",))


def test_batch_norm_takes_in_the_biases_that_the_graph_lacks(tmp_path, pixels):
    roles = ("stem", "shortcut", "inner", "last")
    model, weights = _weights(tmp_path, depth=50, variant="v1", conv_bias=roles)
    assert np.abs(np.asarray(model.get_layer("stage3_block1_2_conv").bias)).max() > 0.5
    bare = build_resnet(weights=weights, conv_bias=())
    assert not any(name.endswith("conv/bias") for name in _names(bare))
    np.testing.assert_allclose(bare(pixels), model(pixels), rtol=1e-3, atol=1e-4)
    assert record_of(bare).spec.conv_bias == ()


def test_a_bias_that_no_batch_norm_follows_is_not_lost(tmp_path):
    _, weights = _weights(tmp_path, variant="v2", conv_bias=("last", "inner"))
    assert build_resnet(weights=weights, conv_bias=("last",)).output.shape == (None, 4)
    with pytest.raises(WeightsError, match="missing in the model: stage1_block1_2_conv/bias"):
        build_resnet(weights=weights, conv_bias=("inner",))


def _names(model):
    return [f"{layer.name}/{weight.name}" for layer in model.layers for weight in layer.weights]


def test_another_pooling_or_hidden_layers_make_a_new_head(tmp_path, caplog):
    model, weights = _weights(tmp_path)
    both = build_resnet(weights=weights, pooling="both", head=(8,))
    assert record_of(both).class_names == ()
    assert "The head is new" in caplog.text
    np.testing.assert_array_equal(
        both.get_layer("stage4_block2_2_conv").kernel,
        model.get_layer("stage4_block2_2_conv").kernel,
    )
    saved = save_weights(both, tmp_path / "both.safetensors")
    caplog.clear()
    again = build_resnet(weights=saved)
    assert "The head is new" not in caplog.text
    np.testing.assert_array_equal(
        again.get_layer("head_1_dense").kernel, both.get_layer("head_1_dense").kernel
    )


def test_weights_do_not_depend_on_the_output_stride(tmp_path, pixels):
    model, weights = _weights(tmp_path)
    dense = build_resnet(weights=weights, output_stride=8, num_classes=None)
    assert dense.compute_output_shape((1, 64, 64, 3)) == (1, 8, 8, 64)
    assert record_of(dense).spec.output_stride == 8
    load_weights(model, read_weights(save_weights(dense, tmp_path / "d")), skip=("logits",))


@pytest.mark.parametrize(
    "wanted",
    [{"depth": 34}, {"variant": "v1"}, {"groups": 2}, {"stem": "cifar"}, {"block": "bottleneck"}],
    ids=str,
)
def test_what_contradicts_the_weights_is_refused(tmp_path, wanted):
    _, weights = _weights(tmp_path)
    with pytest.raises(ValueError, match=f"`{next(iter(wanted))}` must agree with the weights"):
        build_resnet(weights=weights, **wanted)


def test_what_is_adapted_is_a_warning(tmp_path, caplog):
    _, weights = _weights(tmp_path)
    with caplog.at_level(logging.WARNING):
        build_resnet(weights=weights)
    assert not caplog.records


@pytest.mark.parametrize("depth", [18, 34, 152])
def test_imagenet_means_the_weights_of_the_depth(tmp_path, monkeypatch, depth):
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path))
    monkeypatch.setenv("RESNET_KERAS_OFFLINE", "1")
    wanted = rf"hf://timm/resnet{depth}.tv_in1k/model.safetensors is not in the cache"
    with pytest.raises(WeightsError, match=wanted):
        build_resnet(depth, weights="imagenet")
    with pytest.raises(WeightsError, match=wanted):
        load_weights(build_resnet(depth, input_shape=(32, 32, 3)), "imagenet")
