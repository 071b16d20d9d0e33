"""Weights load completely or not at all, and bring their record with them."""

import dataclasses
import logging

import keras
import numpy as np
import pytest

from resnet_keras.builder import build_network, build_resnet
from resnet_keras.errors import WeightsError
from resnet_keras.layers import record_of
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import Weights, load_weights, read_weights, save_weights

SPEC = ResNetSpec(18, width=0.125)
RECORD = Record(
    spec=SPEC,
    recipe=Recipe(32, 1.0, "bicubic", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    class_names=("cat", "dog", "emu"),
    name="pets",
    source="made for this test",
    licence="Apache-2.0",
)


def small_model(classes=3, **changes):
    record = dataclasses.replace(RECORD, spec=dataclasses.replace(SPEC, **changes))
    return build_network(record, num_classes=classes)


def values_of(model):
    return {f"{v.path}": np.array(v.numpy()) for v in model.weights}


def assert_unchanged(model, before):
    after = values_of(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    return read_weights(save_weights(model, tmp_path_factory.mktemp("w") / "pets.safetensors"))


def test_saved_weights_come_back_to_the_bit_with_their_record(model, weights):
    assert weights.record == RECORD
    assert weights.num_classes == 3
    ours = {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights}
    assert weights.tensors.keys() == ours.keys()
    assert all(np.array_equal(weights.tensors[name], ours[name].numpy()) for name in ours)


def test_loading_sets_every_tensor_and_the_record(weights):
    target = small_model()
    load_weights(target, weights)
    loaded = {f"{layer.name}/{v.name}": v for layer in target.layers for v in layer.weights}
    assert all(np.array_equal(loaded[name].numpy(), weights.tensors[name]) for name in loaded)
    assert record_of(target) == RECORD


def test_loaded_recipe_takes_effect_in_the_graph(weights):
    target = build_resnet(18, width=0.125, num_classes=3)
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    target.predict(pictures, verbose=0)
    load_weights(target, weights)
    fresh = build_resnet(weights=weights)
    np.testing.assert_allclose(
        target.predict(pictures, verbose=0), fresh.predict(pictures, verbose=0), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 34}, "depth: the weights have 18, the model 34"),
        ({"width": 0.25}, "width: the weights have 0.125, the model 0.25"),
        ({"variant": "v1"}, "variant: the weights have 'v1.5', the model 'v1'"),
        ({"bn_epsilon": 1.001e-5}, "bn_epsilon: the weights have 1e-05, the model 1.001e-05"),
        ({"pool_padding": "same"}, "pool_padding: the weights have 'symmetric', the model 'same'"),
    ],
)
def test_weights_of_another_network_are_refused_by_the_differing_field(weights, changes, message):
    target = small_model(**changes)
    before = values_of(target)
    with pytest.raises(WeightsError, match=message):
        load_weights(target, weights)
    assert_unchanged(target, before)


def test_other_number_of_classes_says_how_to_keep_the_new_head(weights):
    target = small_model(classes=7)
    before = values_of(target)
    with pytest.raises(WeightsError, match=r"3 classes and the model has 7; `skip=\(\"logits\",\)"):
        load_weights(target, weights)
    assert_unchanged(target, before)


def test_skipped_head_stays_and_is_said_aloud(weights, caplog):
    target = small_model(classes=7)
    head = target.get_layer("logits").kernel.numpy()
    with caplog.at_level(logging.WARNING, "resnet_keras"):
        load_weights(target, weights, skip=("logits",))
    assert "The head is new: the model has" in caplog.text
    np.testing.assert_array_equal(target.get_layer("logits").kernel.numpy(), head)
    kernel = target.get_layer("stem_conv").kernel.numpy()
    np.testing.assert_array_equal(kernel, weights.tensors["stem_conv/kernel"])
    assert record_of(target) == dataclasses.replace(RECORD, class_names=())


def test_features_leave_the_head_unused_only_when_told_to(weights, caplog):
    target = small_model(classes=None)
    with pytest.raises(
        WeightsError, match=r"missing in the model: logits/bias, logits/kernel.*skip"
    ):
        load_weights(target, weights)
    with caplog.at_level(logging.INFO, "resnet_keras"):
        load_weights(target, weights, skip=("logits",))
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_missing_and_extra_tensors_are_listed(weights):
    tensors = dict(weights.tensors)
    tensors["stage9_block1_1_conv/kernel"] = tensors.pop("stage1_block1_1_conv/kernel")
    target = small_model()
    before = values_of(target)
    with pytest.raises(
        WeightsError,
        match=r"weights: stage1_block1_1_conv/kernel; .*model: stage9_block1_1_conv/kernel",
    ):
        load_weights(target, Weights(weights.record, tensors))
    assert_unchanged(target, before)


def test_layer_that_neither_side_has_cannot_be_skipped(weights):
    with pytest.raises(WeightsError, match=r"`skip` must name.*predictions"):
        load_weights(small_model(), weights, skip=("predictions",))


def test_tensor_of_another_shape_is_named_and_nothing_is_loaded(weights):
    name = "stage4_block2_2_bn/gamma"
    tensors = {**weights.tensors, name: np.ones(5, np.float32)}
    target = small_model()
    before = values_of(target)
    with pytest.raises(WeightsError, match=rf"{name} is \(5,\)"):
        load_weights(target, Weights(weights.record, tensors))
    assert_unchanged(target, before)


def test_model_of_another_program_is_refused(weights):
    with pytest.raises(ValueError, match="build_resnet"):
        load_weights(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), weights)
