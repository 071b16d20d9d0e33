"""Every kind of network gives the logits that timm gives with the same weights.

By default against `goldens/parity.json`; marked slow, against timm itself with statistics of
batch norm that it computed (`pip install torch timm`, then `pytest -m slow tests/test_parity.py`).
"""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from resnet_keras.builder import build_network
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from tests.parity_cases import CASES, CLASSES, SIZES, STRIDES, branch_end, images, values
from tests.torch_packages import import_or_skip

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "parity.json").read_text())
# The pictures of these tests are normalised already.
AS_THEY_ARE = Recipe(mean=(0.0,) * 3, std=(1.0,) * 3)
# Largest difference of the logits over their standard deviation.
TOLERANCE = 1e-4


def network(name, **changes):
    spec = dataclasses.replace(ResNetSpec(**CASES[name]), **changes)
    model = build_network(Record(spec, AS_THEY_ARE), num_classes=CLASSES)
    end = branch_end(CASES[name])
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(values(f"{layer.name}/{variable.name}", variable.shape, end))
    return model


def distance(model, pictures, expected):
    ours = keras.ops.convert_to_numpy(model(pictures, training=False))
    return np.abs(ours - expected).max() / np.std(expected)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_timm(name):
    # At odd sizes alone, padding on the wrong side would go unnoticed.
    model = network(name)
    found = {size: distance(model, images(size), GOLDEN[name][str(size)]) for size in SIZES}
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize(
    ("name", "stride"), [(name, stride) for name, some in STRIDES.items() for stride in some]
)
def test_dilated_networks_are_those_of_timm(name, stride):
    model = network(name, output_stride=stride)
    assert distance(model, images(64), GOLDEN[name][f"64/{stride}"]) < TOLERANCE


@pytest.mark.parametrize(
    "mistake",
    [
        {"variant": "v1"},
        {"bn_epsilon": 1e-3},
        {"pool_padding": "same"},
        {"output_stride": 16},
    ],
    ids=str,
)
def test_a_mistake_would_be_noticed(mistake):
    assert distance(network("resnet50", **mistake), images(64), GOLDEN["resnet50"]["64"]) > 1e-3


def test_a_pool_that_pads_zeros_would_be_noticed_before_the_first_relu():
    model = network("resnetv2_18", pool_padding="zeros")
    assert distance(model, images(64), GOLDEN["resnetv2_18"]["64"]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_weights_from_torch_give_the_logits_of_torch(name, tmp_path):
    torch = import_or_skip("torch")
    import_or_skip("timm")
    from safetensors.torch import save_file

    from resnet_keras.weights import load_weights, read_weights
    from tests.torch_models import calibrate, logits, model

    theirs = calibrate(model(name), images(128, count=16))
    save_file(
        {key: value for key, value in theirs.state_dict().items() if value.dtype == torch.float32},
        tmp_path / "model.safetensors",
    )
    weights = read_weights(tmp_path / "model.safetensors")
    assert weights.record.spec == ResNetSpec(**CASES[name])
    record = dataclasses.replace(weights.record, recipe=AS_THEY_ARE)
    ours = build_network(record, num_classes=CLASSES)
    load_weights(ours, dataclasses.replace(weights, record=record))
    for size in (*SIZES, 225):
        pictures = images(size)
        assert distance(ours, pictures, logits(theirs, pictures)) < TOLERANCE, size
