"""Pooled features of all stages from one pass, against the networks that heads will sit on."""

import numpy as np
import pytest

from resnet_keras.builder import build_resnet
from resnet_keras.data import Augmentation, load_images
from resnet_keras.stages import split_at
from resnet_keras.training.views import Views
from resnet_keras.tuning.features import stage_features, stages_of
from resnet_keras.tuning.splits import joined
from tests.pictures import make_arrays

VIEWS = Views(2, Augmentation(), 0)


@pytest.fixture(scope="module")
def data():
    pictures, labels = make_arrays(2, count=20)
    return load_images(pictures, labels=labels, image_size=32)


def network(**options):
    return build_resnet(18, width=0.125, num_classes=None, **options)


@pytest.mark.parametrize("pooling", ["avg", "max", "both"])
@pytest.mark.parametrize("stage", [1, 3, 4])
def test_features_are_what_a_network_that_ends_there_pools(tmp_path, data, stage, pooling):
    model = network()
    features = stage_features(model, data.val, views=VIEWS, folder=tmp_path, dtype="float32")
    rows = np.fromfile(features.file, np.float32).reshape(-1, features.width)
    rows, places = rows[:, features.columns(stage, pooling)], features.places
    shorter = build_resnet(18, width=0.125, num_classes=3, last_stage=stage, pooling=pooling)
    for layer in shorter.layers:
        if layer.name != "logits" and layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    pooled, _ = split_at(shorter, "pool")
    pictures = data.val.pictures(np.arange(len(data.val)))
    for view, pixels in enumerate((pictures, pictures[:, :, ::-1])):
        expected = np.asarray(pooled(pixels, training=False))
        np.testing.assert_allclose(rows[places[view]], expected, atol=1e-4, rtol=1e-4)


def test_features_are_computed_once(tmp_path, data):
    model = network()
    counts = []
    stage_features(
        model, data.val, views=VIEWS, folder=tmp_path / "own", dtype="float32",
        on_batch=counts.append,
    )  # fmt: skip
    first = list(counts)
    counts.clear()
    stage_features(
        model, data.val, views=VIEWS, folder=tmp_path / "own", dtype="float32",
        on_batch=counts.append,
    )  # fmt: skip
    assert sum(first[1:]) == 2 * len(data.val)
    assert counts == [2 * len(data.val)]


def test_parts_are_joined_in_order(data):
    images = joined([data.train, data.val])
    assert len(images) == len(data.train) + len(data.val)
    last = images.pictures(np.array([len(images) - 1]))
    assert (last == data.val.pictures(np.array([len(data.val) - 1]))).all()
    assert images.labels[-1] == data.val.labels[-1]


def test_a_preactivation_network_has_features_behind_its_last_stage_alone():
    assert stages_of(network()) == (4, 3, 2, 1)
    assert stages_of(network(variant="v2")) == (4,)
    assert stages_of(network(last_stage=2)) == (2, 1)
