"""Networks that end before the last stage: the whole network, cut; in training and in files."""

import json

import keras
import numpy as np
import pytest

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.builder import build_resnet
from resnet_keras.data import load_images
from resnet_keras.errors import WeightsError
from resnet_keras.export import export_model
from resnet_keras.folding import Folded
from resnet_keras.layers import record_of
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.stage_table import stage_summary
from resnet_keras.stages import feature_pyramid, freeze, part_of, split_at, unfreeze
from resnet_keras.training import Phase, fine_tune
from resnet_keras.weights import load_weights, read_weights, save_weights
from tests.pictures import make_arrays

THIN = {"depth": 18, "width": 0.125, "num_classes": 3, "zero_init_residual": False}


def build(**arguments):
    """A network in which no weight is 0 or 1."""
    keras.utils.set_random_seed(0)
    model = build_resnet(**THIN | arguments)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, BatchNorm):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return model


@pytest.fixture
def pixels():
    return np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)


def parts(model):
    return {part_of(layer) for layer in model.layers}


# Where the features of a stage are in the whole network: with pre-activation, behind the norm and
# ReLU with which the next stage begins.
ENDS = {
    "v1.5": "stage{0}_block2_out",
    "d": "stage{0}_block2_out",
    "v2": "stage{1}_block1_preact_relu",
    "v2d": "stage{1}_block1_preact_relu",
}


@pytest.mark.parametrize("variant", ENDS)
@pytest.mark.parametrize("last_stage", [1, 2, 3])
def test_features_are_those_within_the_whole_network(tmp_path, pixels, variant, last_stage):
    whole = build(variant=variant)
    saved = save_weights(whole, tmp_path / "whole.safetensors")
    short = build_resnet(weights=saved, last_stage=last_stage, num_classes=None)
    end = ENDS[variant].format(last_stage, last_stage + 1)
    expected = keras.Model(whole.input, whole.get_layer(end).output)(pixels)
    np.testing.assert_array_equal(short(pixels), expected)
    assert parts(short) == {"stem", *(f"stage{n}" for n in range(1, last_stage + 1))}


def test_the_size_is_halved_where_the_whole_network_halves_it():
    spec = ResNetSpec(50, "v2", 0.125, stride_block="last", last_stage=3)
    full = ResNetSpec(50, "v2", 0.125, stride_block="last")
    assert spec.strides == full.strides[:3]
    assert [place.stride for place in spec.places()] == [
        place.stride for place in full.places() if place.stage <= 3
    ]


def test_what_is_left_out_is_said_and_the_head_is_new(tmp_path, caplog):
    saved = save_weights(build(), tmp_path / "whole.safetensors")
    short = build_resnet(weights=saved, last_stage=3)
    assert "stage4 of 'random' is left out: the model ends at stage3" in caplog.text
    assert "The head is new" in caplog.text
    assert short.get_layer("logits").kernel.shape == (32, 3)
    caplog.clear()
    build_resnet(weights=saved, last_stage=2)
    assert "stage3 and stage4 of 'random' are left out: the model ends at stage2" in caplog.text
    build_resnet(weights=saved, last_stage=1)
    assert "stage2, stage3 and stage4 of 'random' are left out" in caplog.text
    caplog.clear()
    build_resnet(weights=saved, last_stage=4)
    assert not caplog.text


@pytest.mark.parametrize("variant", ["v1.5", "v2"])
def test_a_short_network_is_saved_and_read_back_whole(tmp_path, pixels, variant, caplog):
    short = build(variant=variant, last_stage=2, head=(8,))
    saved = save_weights(short, tmp_path / "short.safetensors")
    again = build_resnet(weights=saved)
    assert not caplog.text
    assert record_of(again).spec.last_stage == 2
    np.testing.assert_array_equal(again(pixels), short(pixels))
    shorter = build_resnet(weights=saved, last_stage=1)
    np.testing.assert_array_equal(split_at(shorter, "stage1")[0](pixels).shape, (2, 16, 16, 8))
    short.save(tmp_path / "short.keras")
    loaded = keras.models.load_model(tmp_path / "short.keras")
    np.testing.assert_array_equal(loaded(pixels), short(pixels))


def test_stages_that_the_weights_lack_are_refused(tmp_path):
    saved = save_weights(build(last_stage=2), tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match=r"which end at stage2\. Received: last_stage=3"):
        build_resnet(weights=saved, last_stage=3)
    with pytest.raises(WeightsError, match="last_stage: the weights have 2, the model 4"):
        load_weights(build(), saved)


def test_weights_of_more_stages_load_into_a_model_of_fewer(tmp_path):
    whole = build()
    short = build(last_stage=3)
    weights = read_weights(save_weights(whole, tmp_path / "whole.safetensors"))
    with pytest.raises(
        WeightsError, match=r"logits/kernel is \(64, 3\) in the weights and \(32, 3\)"
    ):
        load_weights(short, weights)
    load_weights(short, weights, skip=("logits",))
    np.testing.assert_array_equal(
        short.get_layer("stage3_block2_2_conv").kernel,
        whole.get_layer("stage3_block2_2_conv").kernel,
    )


@pytest.mark.parametrize("last_stage", [0, 5, 2.0, True, "stage3"])
def test_a_stage_that_there_is_not_is_refused(last_stage):
    with pytest.raises(ValueError, match="`last_stage` must be an integer from 1 to 4"):
        build_resnet(18, last_stage=last_stage)


def test_cifar_networks_have_three_stages():
    model = build_resnet(20, stem="cifar", shortcut="A", last_stage=2, num_classes=None)
    assert model.compute_output_shape((1, 32, 32, 3)) == (1, 16, 16, 32)
    with pytest.raises(ValueError, match="`last_stage` must be an integer from 1 to 3"):
        build_resnet(20, stem="cifar", last_stage=4)


def test_a_record_from_before_there_was_a_last_stage_is_of_the_whole_network():
    values = Record(ResNetSpec(18)).to_dict()
    for name in ("last_stage", "head_normalization", "head_activation"):
        del values["spec"][name]
    assert Record.from_dict(json.loads(json.dumps(values))) == Record(ResNetSpec(18, last_stage=4))


def test_the_last_block_of_what_is_kept_is_dropped_most_often():
    model = build(last_stage=2, stochastic_depth=0.4)
    rates = {layer.name: layer.rate for layer in model.layers if layer.name.endswith("_drop")}
    assert list(rates.values()) == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("variant", ["v1.5", "v2"])
def test_cuts_pyramids_folding_and_the_table_end_with_it(pixels, variant):
    model = build(variant=variant, last_stage=3)
    first, second = split_at(model, "stage3")
    np.testing.assert_array_equal(second(first(pixels)), model(pixels))
    pyramid = feature_pyramid(model)(pixels)
    assert {name: level.shape[1] for name, level in pyramid.items()} == {"C2": 16, "C3": 8, "C4": 4}
    np.testing.assert_array_equal(pyramid["C4"], first(pixels))
    np.testing.assert_allclose(Folded(model)(pixels), model(pixels), rtol=1e-4, atol=1e-4)
    rows = stage_summary(model, 64)
    assert [row.stage for row in rows] == ["stem", "stage1", "stage2", "stage3", "head"]
    assert sum(row.parameters for row in rows) == model.count_params()
    with pytest.raises(ValueError, match="boundary='stage4'"):
        split_at(model, "stage4")


def test_freezing_through_the_last_stage_freezes_the_backbone():
    model = build(last_stage=3)
    freeze(model)
    assert [weight.path for weight in model.trainable_weights] == ["logits/kernel", "logits/bias"]
    unfreeze(model, start="stage3")
    trained = {part_of(layer) for layer in model.layers if layer.trainable and layer.weights}
    assert trained == {"stage3", "head"}


def test_it_is_fine_tuned_and_exported(tmp_path):
    pictures, labels = make_arrays(3, count=16, size=32)
    data = load_images(
        pictures, labels=labels, recipe=Recipe(image_size=32, crop=1.0), batch_size=8,
        validation=0.25, test=0.25,
    )  # fmt: skip
    model = build(variant="v2", last_stage=3)
    with pytest.raises(ValueError, match=r"which has \['stem', 'stage1', 'stage2', 'stage3', "):
        fine_tune(model, data, run_dir=tmp_path / "no", phases=[Phase("stage4")], quiet=True)
    result = fine_tune(
        model, data, run_dir=tmp_path / "run", phases=[Phase("head", 1), Phase("stage3", 1)],
        quiet=True,
    )  # fmt: skip
    assert [row["phase"] for row in result.history] == ["head", "stage3"]
    rebuilt = build_resnet(weights=tmp_path / "run")
    test = data.test.pictures(np.arange(4)).astype(np.float32)
    np.testing.assert_array_equal(rebuilt(test), result.model(test))
    assert (export_model(rebuilt, tmp_path / "saved") / "saved_model.pb").exists()
