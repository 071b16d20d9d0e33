"""Norms that begin to train: with the statistics of the pictures, and the function they had."""

import contextlib

import keras
import numpy as np
import pytest

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.builder import build_resnet
from resnet_keras.data import Augmentation, load_images
from resnet_keras.distribution.workers import ALONE, Workers
from resnet_keras.layers import is_head
from resnet_keras.records import Recipe
from resnet_keras.stages import boundary_layer, freeze, split_at, unfreeze
from resnet_keras.training import Phase, fine_tune, keeper
from resnet_keras.training.keeper import scores
from resnet_keras.training.recalibration import Sample, recalibrate
from tests.pictures import make_arrays


@pytest.fixture(scope="module")
def pictures():
    return make_arrays(3, count=24, size=32)


def build(*, trained=True, **arguments):
    """Returns a network whose statistics are those of other pictures, of more contrast."""
    keras.utils.set_random_seed(1)
    model = build_resnet(18, num_classes=3, width=0.125, zero_init_residual=False, **arguments)
    rng = np.random.default_rng(0)
    others = rng.choice([0, 255], (64, 32, 32, 3)).astype("float32")
    for norm in norms_of(model) if trained else ():
        norm.momentum = 0.0
    if trained:
        model(others, training=True)
    for norm in norms_of(model):
        norm.momentum = 0.99
    return model


def norms_of(model):
    return [layer for layer in model.layers if isinstance(layer, BatchNorm)]


def sample_of(model, pixels, own=None):
    inputs = keras.Input(pixels.shape[1:], dtype="uint8")
    own = np.ones(len(pixels), bool) if own is None else own
    return Sample(model, model.input, inputs, inputs, pixels.__getitem__, own)


@contextlib.contextmanager
def uncounted(text, total):
    yield lambda count: None


def weights_of(model):
    return [np.copy(weight) for weight in model.get_weights()]


def test_the_statistics_are_those_of_the_pictures_and_the_network_does_what_it_did(pictures):
    pixels, _ = pictures
    model = build(head=(8,), head_normalization="batch")
    freeze(model, "stage2")
    unfreeze(model, "stage3", batch_norm="train")
    norms = [norm for norm in norms_of(model) if norm.name.startswith(("stage3", "stage4"))]
    others = [norm for norm in norms_of(model) if norm not in norms]
    assert any(is_head(norm.name) for norm in others)
    before = model.predict(pixels, verbose=0)
    seen = keras.Model(model.input, [norm.input for norm in norms]).predict(pixels, verbose=0)
    kept = [norm.get_weights() for norm in others]

    recalibrate(sample_of(model, pixels), ALONE, counting=uncounted)

    for norm, features in zip(norms, seen, strict=True):
        values = features.astype(np.float64).reshape(-1, features.shape[-1])
        np.testing.assert_allclose(norm.moving_mean, values.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.moving_variance, values.var(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), before, rtol=1e-4, atol=1e-4)
    for norm, weights in zip(others, kept, strict=True):
        assert all(map(np.array_equal, norm.get_weights(), weights))


def test_with_pre_activation_a_stage_begins_with_a_norm(pictures):
    pixels, _ = pictures
    model = build(variant="v2")
    freeze(model, "stage3")
    unfreeze(model, "stage4", batch_norm="train")
    start = boundary_layer(model, "stage3").output
    kept = split_at(model, "stage3")[0].predict(pixels, verbose=0)
    before = model.predict(pixels, verbose=0)
    inputs = keras.Input(kept.shape[1:])
    sample = Sample(model, start, inputs, inputs, kept.__getitem__, np.ones(len(kept), bool))
    recalibrate(sample, ALONE, counting=uncounted)
    norm = model.get_layer("stage4_block1_preact_bn")
    np.testing.assert_allclose(norm.moving_mean, kept.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), before, rtol=1e-4, atol=1e-4)


def test_a_mean_far_from_0_leaves_the_variance_its_digits():
    model = build(variant="v2")
    freeze(model, "stage3")
    unfreeze(model, "stage4", batch_norm="train")
    start = boundary_layer(model, "stage3").output
    rng = np.random.default_rng(0)
    seen = rng.normal(100, 0.01, (64, 2, 2, start.shape[-1])).astype("float32")
    inputs = keras.Input(seen.shape[1:])
    sample = Sample(model, start, inputs, inputs, seen.__getitem__, np.ones(len(seen), bool))
    recalibrate(sample, ALONE, counting=uncounted)
    variance = model.get_layer("stage4_block1_preact_bn").moving_variance
    expected = seen.astype(np.float64).var(axis=(0, 1, 2))
    np.testing.assert_allclose(variance, expected, rtol=0.01)


@pytest.mark.parametrize("batch_norm", ["frozen", "affine"])
def test_norms_that_keep_their_statistics_stay_as_they_are(pictures, batch_norm):
    model = build()
    unfreeze(model, "all", batch_norm=batch_norm)
    before = weights_of(model)
    recalibrate(sample_of(model, pictures[0]), ALONE, counting=uncounted)
    assert all(map(np.array_equal, weights_of(model), before))


def test_a_new_network_normalises_as_ever(pictures):
    model = build(trained=False)
    unfreeze(model, "all", batch_norm="train")
    before = weights_of(model)
    recalibrate(sample_of(model, pictures[0]), ALONE, counting=uncounted)
    assert all(map(np.array_equal, weights_of(model), before))


def test_processes_that_share_the_pictures_find_what_one_finds(pictures):
    pixels, _ = pictures
    found, lines = [], [b"", b""]
    shares = np.arange(len(pixels)) % 2 == [[0], [1]]
    for count in (1, 2):
        model = build()
        unfreeze(model, "all", batch_norm="synchronized")
        if count == 1:
            recalibrate(sample_of(model, pixels), ALONE, counting=uncounted)
        for index in range(2) if count == 2 else ():
            # The second one has the line of the first, as both have at once in a run.
            def gather(line, index=index):
                lines[index] = line
                return lines if index else [line]

            weights = model.get_weights()
            workers = Workers(index, count, gather)
            recalibrate(sample_of(model, pixels, shares[index]), workers, counting=uncounted)
            if not index:
                model.set_weights(weights)
        found.append(weights_of(model))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def train(pictures, folder, *, head_epochs=20, cache="memory", batch_norm="train", **options):
    pixels, labels = pictures
    data = load_images(
        pixels, labels=labels, recipe=Recipe(image_size=32, crop=1.0), batch_size=18,
        validation=0.25, test=0,
    )  # fmt: skip
    phases = [
        Phase("head", epochs=head_epochs, learning_rate=0.01),
        Phase("stage4", epochs=2, learning_rate=1e-4, batch_norm=batch_norm),
    ]
    return fine_tune(
        build(), data, run_dir=folder, phases=phases, cache=cache, quiet=True,
        augmentation=Augmentation(flip="none"), **options,
    )  # fmt: skip


@pytest.mark.parametrize("cache", ["memory", None])
@pytest.mark.parametrize("batch_norm", ["train", "synchronized"])
def test_training_goes_on_where_the_head_was_left(pictures, tmp_path, cache, batch_norm):
    history = train(pictures, tmp_path / "run", cache=cache, batch_norm=batch_norm).history
    head, first = history[19], history[20]
    assert head["loss"] < 0.05
    # As statistics of batches differ from those of all pictures; from the old ones on, 0.55.
    assert first["loss"] < 0.2


@pytest.mark.parametrize("epochs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_that_stopped_behind_it_ends_with_the_same_bits(
    pictures, tmp_path, monkeypatch, epochs
):
    whole = weights_of(train(pictures, tmp_path / "whole", head_epochs=1).model)
    validated = []

    def stop_in_between(evaluation):
        validated.append(evaluation)
        if len(validated) > epochs:
            raise KeyboardInterrupt
        return scores(evaluation)

    with monkeypatch.context() as patch:
        patch.setattr(keeper, "EPOCH_CHECKPOINT_SECONDS", 0)
        patch.setattr(keeper, "scores", stop_in_between)
        with pytest.raises(KeyboardInterrupt):
            train(pictures, tmp_path / "run", head_epochs=1)
    again = weights_of(train(pictures, tmp_path / "run", head_epochs=1, resume=True).model)
    assert all(map(np.array_equal, again, whole))
