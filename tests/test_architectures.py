"""Variants, shortcuts, stems and heads: published sizes and what makes each of them itself."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from resnet_keras import build_resnet, freeze, split_at, unfreeze
from resnet_keras.builder import build_network
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from tests.parity_cases import CASES

SMALL = {"width": 0.125, "num_classes": 3}


def parameters(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def count(depth, **arguments):
    return parameters(build_resnet(depth, **arguments))


# timm 1.0.31's and torchvision's networks of these names, but for the last but one: the summary
# that was published of a ResNet-152 with biased stem and projections.
@pytest.mark.parametrize(
    ("depth", "arguments", "published"),
    [
        (50, {"variant": "d"}, 25_576_264),
        (18, {"variant": "v2"}, 11_687_720),
        (50, {"variant": "v2"}, 25_549_352),
        (18, {"variant": "v2d"}, 11_706_952),
        (50, {"groups": 32, "width_per_group": 4}, 25_028_904),
        (50, {"width_per_group": 128}, 68_883_240),
        (200, {"variant": "d"}, 64_693_064),
        (152, {"conv_bias": ("stem", "shortcut")}, 60_196_712),
        (50, {"variant": "v1", "conv_bias": ("stem", "shortcut", "inner", "last")}, 25_583_592),
    ],
    ids=str,
)
def test_parameters_are_the_published_ones(depth, arguments, published):
    assert count(depth, **arguments) == published


def test_multiply_adds_of_the_biased_152_layers_are_the_published_ones():
    from resnet_keras import stage_summary

    rows = stage_summary(build_resnet(152, conv_bias=("stem", "shortcut")), 224)
    assert sum(row.macs for row in rows) / 1e9 == pytest.approx(11.5, abs=0.05)


# He et al. 2015, table 6, in millions.
@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_cifar_networks_have_the_published_sizes(depth, millions):
    digits = len(str(millions).partition(".")[2])
    arguments = {"stem": "cifar", "num_classes": 10}
    identity = count(depth, shortcut="A", **arguments)
    assert round(identity / 1e6, digits) == millions
    # "They have no extra parameter": section 3.3.
    assert identity == count(depth, shortcut="none", **arguments)
    assert count(depth, shortcut="C", **arguments) > count(depth, shortcut="B", **arguments)
    assert count(depth, shortcut="B", **arguments) > identity


@pytest.mark.slow
def test_1202_layers_are_built_and_trained():
    model = build_resnet(1202, stem="cifar", shortcut="A", num_classes=10)
    assert round(parameters(model) / 1e6, 1) == 19.4
    loss = _train_once(model, size=32)
    assert np.isfinite(loss)


def test_more_layers_than_the_recursion_limit_are_built_and_trained():
    model = build_resnet(290, stem="cifar", shortcut="A", num_classes=10)
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == 289
    assert len(model.layers) > sys.getrecursionlimit()
    assert np.isfinite(_train_once(model, size=8))


def _train_once(model, size):
    before = [np.array(weight) for weight in model.trainable_variables]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.run_eagerly = True  # tracing takes longer than the one step
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype("float32")
    loss = model.train_on_batch(pixels, np.array([0, 1]))
    after = [np.array(weight) for weight in model.trainable_variables]
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    return float(loss)


def test_bottlenecks_of_cifar_networks_are_9n_plus_2():
    model = build_resnet(164, stem="cifar", block="bottleneck", variant="v2", num_classes=10)
    # He et al. 2016, table 4: 1.7 million.
    assert round(parameters(model) / 1e6, 1) == 1.7
    assert model.get_layer("stage3_block18_out").output.shape[-1] == 256
    assert build_resnet(29, stem="cifar", **SMALL).get_layer("stage1_block3_3_conv")


def test_a_cifar_network_is_cut_and_frozen_by_its_three_stages():
    model = build_resnet(20, stem="cifar", variant="v2", num_classes=4, input_shape=(32, 32, 3))
    first, second = split_at(model, "stage3")
    assert first.output.shape == (None, 8, 8, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
    np.testing.assert_allclose(second(first(pixels)), model(pixels), rtol=1e-5, atol=1e-6)
    assert split_at(model, "stem")[0].output.shape == (None, 32, 32, 16)
    freeze(model)
    assert [weight.path for weight in model.trainable_variables] == ["logits/kernel", "logits/bias"]
    with pytest.raises(ValueError, match=r"which has \['stem', 'stage1', 'stage2', 'stage3', 'he"):
        unfreeze(model, start="stage4")


@pytest.mark.parametrize("shortcut", ["A", "B", "stage", "C"])
@pytest.mark.parametrize("variant", ["v1.5", "v2"])
def test_without_its_branches_a_network_is_its_shortcuts(shortcut, variant):
    """A second implementation of the shortcuts alone, on branches that give zero."""
    model = build_resnet(
        20,
        stem="cifar",
        shortcut=shortcut,
        variant=variant,
        num_classes=None,
        input_shape=(16, 16, 3),
    )
    x, _ = split_at(model, "stem")
    x = features = np.asarray(x(np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3))))
    for stage in (1, 2, 3):
        for block in (1, 2, 3):
            entry = np.maximum(x, 0) if variant == "v2" else x
            name = f"stage{stage}_block{block}_shortcut_conv"
            if any(layer.name == name for layer in model.layers):
                layer = model.get_layer(name)
                step = layer.strides[0]
                x = entry[:, ::step, ::step] @ np.asarray(layer.kernel)[0, 0]
            elif stage > 1 and block == 1:
                x = x[:, ::2, ::2]
                x = np.concatenate([x, np.zeros_like(x)], axis=-1)
            x = np.maximum(x, 0) if variant == "v1.5" else x
    expected = np.maximum(x, 0)
    _, rest = split_at(model, "stem")
    # Fresh batch norm has mean 0 and variance 1: it only divides by sqrt(1 + epsilon).
    np.testing.assert_allclose(rest(features), expected, rtol=1e-3, atol=1e-4)
    projections = [layer for layer in model.layers if layer.name.endswith("_shortcut_conv")]
    assert len(projections) == {"A": 0, "B": 2, "stage": 3, "C": 9}[shortcut]


def test_a_plain_network_has_no_shortcut_and_lets_its_input_through():
    model = build_resnet(20, stem="cifar", shortcut="none", num_classes=None)
    assert not any(isinstance(layer, keras.layers.Add) for layer in model.layers)
    assert np.asarray(model(np.full((1, 16, 16, 3), 128.0))).std() > 0


@pytest.mark.parametrize("variant", ["v1", "v1.5", "v2", "d", "v2d"])
def test_dilation_computes_the_same_features_more_densely(variant):
    coarse = build_resnet(50, variant=variant, width=0.125, num_classes=None)
    _randomise(coarse)
    pixels = np.random.default_rng(1).uniform(0, 255, (1, 96, 96, 3)).astype("float32")
    expected = np.asarray(coarse(pixels, training=False))
    for stride in (16, 8):
        arguments = {"width": 0.125, "num_classes": None, "output_stride": stride}
        dense = build_resnet(50, variant=variant, **arguments)
        dense.set_weights(coarse.get_weights())
        found = np.asarray(dense(pixels, training=False))
        assert found.shape[1] == 96 // stride
        step = 32 // stride
        np.testing.assert_allclose(
            found[:, ::step, ::step], expected, rtol=1e-3, atol=1e-4 * expected.max()
        )


def _randomise(model):
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])


def test_branches_are_dropped_more_often_the_deeper_they_lie():
    model = build_resnet(18, stochastic_depth=0.4, **SMALL)
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    np.testing.assert_allclose(rates, 0.4 * np.arange(1, 9) / 8)


def test_a_dropped_branch_leaves_the_whole_picture_to_the_shortcut():
    model = build_resnet(20, stem="cifar", stochastic_depth=0.9, zero_init_residual=False)
    block = keras.Model(
        model.get_layer("stage3_block2_out").output, model.get_layer("stage3_block3_out").output
    )
    x = np.random.default_rng(0).uniform(0.1, 1, (64, 4, 4, 64)).astype("float32")
    keras.utils.set_random_seed(0)
    kept = np.abs(np.asarray(block(x, training=True)) - x).max(axis=(1, 2, 3)) > 1e-6
    assert 0 < kept.sum() < 20  # a tenth of 64 is expected
    assert (np.abs(np.asarray(block(x)) - x).max(axis=(1, 2, 3)) > 1e-6).all()


@pytest.mark.parametrize(("pooling", "channels"), [("avg", 64), ("max", 64), ("both", 128)])
def test_pooling_takes_the_average_the_largest_or_both(pooling, channels):
    model = build_resnet(18, pooling=pooling, **SMALL)
    features, _ = split_at(model, "stage4")
    pooled, _ = split_at(model, "pool")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 96, 64, 3))
    maps, found = np.asarray(features(pixels)), np.asarray(pooled(pixels))
    both = np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1)
    expected = {"avg": both[:, :64], "max": both[:, 64:], "both": both}[pooling]
    assert found.shape == (2, channels)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_head_of_several_layers():
    model = build_resnet(18, head=(16, 8), dropout=0.5, **SMALL)
    heads = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in heads] == [16, 8, 3]
    assert sum(isinstance(layer, keras.layers.Dropout) for layer in model.layers) == 3
    freeze(model, through="pool")
    assert len(model.trainable_variables) == 6


@pytest.mark.parametrize("variant", ["v1.5", "v2", "v2d"])
def test_every_new_layer_survives_saving(variant, tmp_path):
    model = build_resnet(
        18,
        variant=variant,
        shortcut="A",
        output_stride=8,
        stochastic_depth=0.1,
        input_shape=(64, 64, 3),
        num_classes=3,
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3))
    np.testing.assert_array_equal(loaded(pixels), model(pixels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 21, "stem": "cifar"}, r"must be 6n \+ 2 .* Received: depth=21"),
        ({"depth": 20, "stem": "mnist"}, "`stem` must be one of .* Received: stem='mnist'"),
        ({"depth": 18, "block": "bottleneck"}, "`block` must be 'basic' at depth 18"),
        ({"depth": 18, "groups": 32}, "belong to bottleneck blocks, and depth 18 has basic ones"),
        ({"groups": 0}, "`groups` must be a positive integer. Received: 0"),
        ({"shortcut": "D"}, "`shortcut` must be one of .* Received: shortcut='D'"),
        ({"shortcut": "A", "depth": 18, "width": 0.5}, "can only add channels"),
        ({"output_stride": 4}, r"`output_stride` must be one of \[32, 16, 8\]. Received: out"),
        ({"pooling": "min"}, "`pooling` must be one of .* Received: pooling='min'"),
        ({"head": (0,)}, r"`head` must hold positive integers. Received: head=\(0,\)"),
        ({"conv_bias": ("first",)}, "`conv_bias` must be one of .* Received: conv_bias='first'"),
        ({"stochastic_depth": 1.0}, "`stochastic_depth` must lie in .* Received: stochastic_depth"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_resnet(**arguments)


_ON_ANOTHER_BACKEND = """
import json, sys
from tests.test_parity import network
from tests.parity_cases import images
import keras, numpy as np
assert keras.backend.backend() == "jax"
logits = {n: np.asarray(network(n)(images(64), training=False)).tolist() for n in sys.argv[1:]}
json.dump(logits, sys.stdout)
"""


@pytest.mark.slow
def test_jax_gives_the_logits_of_timm():
    from tests.test_parity import GOLDEN, TOLERANCE

    done = subprocess.run(
        [sys.executable, "-c", _ON_ANOTHER_BACKEND, *CASES],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    for name, logits in json.loads(done.stdout).items():
        expected = np.array(GOLDEN[name]["64"])
        assert np.abs(np.array(logits) - expected).max() / expected.std() < TOLERANCE, name


def test_a_record_of_any_spec_survives_json():
    spec = ResNetSpec(50, "v2", 0.125, groups=2, conv_bias=("shortcut", "stem"), head=(8,))
    record = Record(spec, Recipe(), ("a",))
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert build_network(record, num_classes=1).get_layer("head_1_dense").units == 8
