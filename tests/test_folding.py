"""The folded network: the same numbers as the network, and nothing of it moved."""

import keras
import numpy as np
import pytest

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.builder import build_resnet
from resnet_keras.folding import Folded, FrozenPart
from resnet_keras.stages import BOUNDARIES, freeze, split_at, unfreeze

NETWORKS = {
    "basic": {"depth": 18},
    "v1": {"depth": 50, "variant": "v1", "conv_bias": ("stem", "inner", "last", "shortcut")},
    "v2": {"depth": 18, "variant": "v2"},
    "d": {"depth": 50, "variant": "d", "output_stride": 16},
    "v2d": {"depth": 18, "variant": "v2d"},
    "resnext": {"depth": 50, "groups": 4, "width_per_group": 8},
    "cifar": {"depth": 20, "stem": "cifar", "shortcut": "A"},
    "head": {"depth": 18, "pooling": "both", "head": (8,), "dropout": 0.5},
}


def build(**arguments):
    """A network whose batch norms have seen pictures: nothing in it is 0 or 1."""
    keras.utils.set_random_seed(0)
    width = 1.0 if arguments.get("stem") == "cifar" else 0.125
    model = build_resnet(**{"num_classes": 5, "width": width} | arguments)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, BatchNorm):
            shape = layer.gamma.shape
            low = [generator.uniform(0.5, 1.5, shape), generator.normal(size=shape)]
            layer.set_weights([*low, generator.normal(size=shape), generator.uniform(1, 2, shape)])
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(generator.normal(size=layer.bias.shape))
    return model


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)


def spread(found, expected):
    return np.abs(np.asarray(found) - np.asarray(expected)).max() / np.std(expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_network(name, pictures):
    model = build(**NETWORKS[name])
    before = model.get_weights()
    expected = model(pictures, training=False)
    assert spread(Folded(model)(pictures), expected) < 1e-4
    assert 0 < spread(Folded(model, dtype="bfloat16")(pictures), expected) < 0.2
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_every_norm_of_a_network_with_norms_behind_its_convolutions_is_gone():
    model = build(depth=50)
    norms = {layer.name for layer in model.layers if isinstance(layer, BatchNorm)}
    names = {name.split("/")[0] for name in Folded(model).tensors()}
    assert norms
    assert not norms & names
    assert len(names) == 54  # 53 convolutions and the logits


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_parts_follow_each_other(boundary, pictures):
    model = build(depth=18)
    features = Folded(model, through=boundary)(pictures)
    expected = split_at(model, boundary)[0](pictures, training=False)
    assert spread(features, expected) < 1e-4
    logits = Folded(model, after=boundary)(features)
    assert spread(logits, model(pictures, training=False)) < 1e-4


def test_the_precision_is_kept_to_the_end_and_the_head_is_float32(pictures):
    model = build(depth=18)
    policies = [layer.dtype_policy.name for layer in model.layers]
    features = Folded(model, through="stage4", dtype="bfloat16")(pictures)
    assert keras.backend.standardize_dtype(features.dtype) == "bfloat16"
    logits = Folded(model, dtype="bfloat16")(pictures)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert [layer.dtype_policy.name for layer in model.layers] == policies


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_through_a_frozen_part_moves_only_the_rest(dtype, pictures):
    model = build(depth=18)
    freeze(model, "stage3")
    unfreeze(model, "stage4", batch_norm="affine")
    frozen = FrozenPart(Folded(model, through="stage3", dtype=dtype))
    inputs = keras.Input((64, 64, 3))
    trainer = keras.Model(inputs, split_at(model, "stage3")[1](frozen(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    kept = frozen.get_weights()
    first = trainer.evaluate(pictures, np.arange(3), verbose=0)
    trainer.fit(pictures, np.arange(3), epochs=5, verbose=0)
    assert trainer.evaluate(pictures, np.arange(3), verbose=0) < first
    moved = {
        layer.name
        for layer in model.layers
        if any(
            not np.array_equal(old, new)
            for old, new in zip(before[layer.name], layer.get_weights(), strict=True)
        )
    }
    assert moved
    assert all(name.startswith(("stage4", "logits")) for name in moved)
    for old, new in zip(kept, frozen.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
