"""`ResNetHyperModel` under the tuners of keras-tuner itself."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from keras_tuner.errors import FailedTrialError, FatalTypeError

from resnet_keras.data import load_images
from resnet_keras.stages import part_of
from resnet_keras.tuning import ResNetHyperModel
from resnet_keras.tuning.batches import filled, mixed
from resnet_keras.tuning.cross_entropy import CrossEntropy
from tests.pictures import make_arrays

ROOT = Path(__file__).parent.parent
OLD_NAMES = "ignore:(currentThread|getName):DeprecationWarning"  # keras-tuner's own
SMALL = {"stage": 1, "unfrozen": 0, "hidden_layers": 0}

pytestmark = pytest.mark.filterwarnings(OLD_NAMES)


@pytest.fixture(scope="module")
def data():
    pictures, labels = make_arrays(2, count=32, size=32)
    return load_images(
        pictures, labels=labels, image_size=32, batch_size=32, validation=0.5, test=0.0
    )


class Watched(ResNetHyperModel):
    """Notes the weights of each trial before and after it, and its epochs."""

    def __init__(self, **options):
        self.notes = []
        super().__init__(**options)

    def fit(self, hp, model, x, *rest, **options):
        before = {weight.path: np.array(weight) for weight in model.weights}
        history = super().fit(hp, model, x, *rest, **options)
        moved = {w.path for w in model.weights if not np.array_equal(before[w.path], np.array(w))}
        self.notes.append((dict(hp.values), model, moved, history.epoch))
        return history


def watched(space=None, **options):
    shared = {"num_classes": 2, "depths": [18], "weights": None, "width": 0.125}
    return Watched(space=SMALL | (space or {}), **shared | options)


def search(tuner, data, **options):
    tuner.search(data.train.dataset(), validation_data=data.val.dataset(), verbose=0, **options)
    return list(tuner.oracle.trials.values())


@pytest.mark.parametrize(
    ("make", "count", "options"),
    [
        pytest.param(keras_tuner.RandomSearch, 2, {"max_trials": 2}, marks=pytest.mark.slow),
        pytest.param(
            keras_tuner.BayesianOptimization,
            3,
            {"max_trials": 3, "num_initial_points": 2},
            marks=pytest.mark.slow,
        ),
        (keras_tuner.Hyperband, 4, {"max_epochs": 2, "factor": 2}),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_algorithm_searches_and_its_best_model_loads(make, count, options, data, tmp_path):
    hypermodel = watched()
    tuner = make(hypermodel, objective="val_accuracy", directory=tmp_path, **options)
    trials = search(tuner, data)
    assert [trial.status for trial in trials] == ["COMPLETED"] * len(trials)
    assert len(trials) >= count
    for trial, (values, _, _, epochs) in zip(trials, hypermodel.notes, strict=True):
        first, last = values.get("tuner/initial_epoch", 0), values.get("tuner/epochs", 1)
        assert epochs == list(range(first, last)), trial.trial_id
    logits = np.array(tuner.get_best_models()[0](data.val.pictures(range(len(data.val)))))
    right = np.mean(logits.argmax(-1) == data.val.labels)
    assert right == pytest.approx(tuner.oracle.get_best_trials()[0].score, abs=1e-6)


class Untrained(ResNetHyperModel):
    def fit(self, hp, model, x, *rest, **options):
        return 0.5


def test_a_grid_is_searched_whole(tmp_path):
    space = {"optimizer": "sgd", "pooling": "avg", "normalization": "none"}
    space |= {"dropout": 0.0, "label_smoothing": 0.0, "stage": 1, "weight_decay": 1e-4}
    space |= {"learning_rate": [0.01, 0.02], "unfrozen": 0, "hidden_layers": 0}
    options = {"num_classes": 2, "depths": [18, 34], "weights": None, "width": 0.125}
    tuner = keras_tuner.GridSearch(
        Untrained(**options, space=space), objective="val_accuracy", directory=tmp_path
    )
    tuner.search(None, verbose=0)
    found = [trial.hyperparameters.values for trial in tuner.oracle.trials.values()]
    points = {
        (
            values["backbone"], values[f"{values['backbone']}/stage"],
            values["sgd/learning_rate"],
        )
        for values in found
    }  # fmt: skip
    assert len(found) == len(points) == 4


def test_what_is_drawn_is_what_is_built(tmp_path):
    space = {"stage": [1, 2], "unfrozen": [0, 2]}
    hypermodel = watched(space, depths=[18, 34])
    tuner = keras_tuner.RandomSearch(
        hypermodel, objective="val_accuracy", max_trials=8, seed=1, directory=tmp_path
    )
    rates, built = set(), set()
    for number in range(8):
        hp = tuner.oracle.create_trial(f"worker-{number}").hyperparameters
        model = hypermodel.build(hp)
        rate = "fine_learning_rate" if hp["unfrozen"] else "learning_rate"
        drawn = hp[f"{hp['optimizer']}/{rate}"]
        assert float(model.optimizer.learning_rate) == pytest.approx(drawn)
        stage = max(part_of(layer) for layer in model.layers if "stage" in part_of(layer))
        assert stage == f"stage{hp[hp['backbone'] + '/stage']}"
        rates.add(drawn)
        built.add((model.name, stage))
    assert len(rates) == 8
    assert [len(set(each)) for each in zip(*built, strict=True)] == [2, 2]


STATISTICS = {"moving_mean", "moving_variance"}


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [
        pytest.param("frozen", {"kernel"}, marks=pytest.mark.slow),
        pytest.param("affine", {"kernel", "gamma", "beta"}, marks=pytest.mark.slow),
        ("train", {"kernel", "gamma", "beta"} | STATISTICS),
    ],
)
def test_what_is_frozen_stays_bit_equal(mode, kinds, data, tmp_path):
    space = {"stage": 2, "unfrozen": 1, "batch_norm": mode, "layer_decay": 0.7}
    space |= {"normalization": "none", "label_smoothing": 0.1}
    hypermodel = watched(space)
    tuner = keras_tuner.RandomSearch(
        hypermodel, objective="val_accuracy", max_trials=1, directory=tmp_path
    )
    search(tuner, data)
    [(_, model, moved, _)] = hypermodel.notes
    parts = {layer.name: part_of(layer) for layer in model.layers}
    assert {parts[path.split("/")[-2]] for path in moved} == {"stage2", "head"}
    assert {path.split("/")[-1] for path in moved if "stage2" in path} == kinds


def test_a_head_that_trains_alone_moves_nothing_else(data):
    hypermodel, hp = watched({"stage": 2, "normalization": "none"}), keras_tuner.HyperParameters()
    hypermodel.fit(hp, hypermodel.build(hp), data.train.dataset(), verbose=0)
    [(_, _, moved, _)] = hypermodel.notes
    assert moved == {"logits/kernel", "logits/bias"}


def test_a_trial_that_diverges_fails_and_cannot_win(data, tmp_path):
    # What is all NaN says class 0, so that it would win here.
    first = data.val.subset(np.flatnonzero(data.val.labels == 0)).dataset()
    space = {"optimizer": "sgd", "learning_rate": [100.0, 0.01], "hidden_layers": 4, "units": 64}
    space |= {"pooling": "avg", "normalization": "none", "dropout": 0.0, "label_smoothing": 0.0}
    space |= {"activation": "relu", "weight_decay": 1e-4}
    tuner = keras_tuner.GridSearch(watched(space), objective="val_accuracy", directory=tmp_path)
    tuner.search(data.train.dataset(), validation_data=first, epochs=5, verbose=0)
    bad, good = tuner.oracle.trials.values()
    assert (bad.status, good.status) == ("FAILED", "COMPLETED")
    last = bad.message.strip().splitlines()[-1]
    assert re.fullmatch(r".*FailedTrialError: The training diverged: (val_)?loss is nan\.", last)
    assert tuner.oracle.get_best_trials()[0].trial_id == good.trial_id
    unguarded = watched(space)
    model = unguarded.build(bad.hyperparameters)
    plain = keras_tuner.HyperModel.fit(
        unguarded, bad.hyperparameters, model, data.train.dataset(), epochs=5, shuffle=False,
        validation_data=first, verbose=0,
    )  # fmt: skip
    assert plain.history["val_accuracy"][-1] == 1.0


class Spoil(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        logits = self.model.get_layer("logits").bias
        logits.assign(np.full(logits.shape, np.inf))


class TakeMemory(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        np.ones(2**46)


class TakeTensors(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        tf.ones([2**44])


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (Spoil, "^The training diverged: logits/bias is not finite.$"),
        (TakeMemory, "^The memory ran out: .* than is free"),
        # TensorFlow tries for ten seconds.
        pytest.param(TakeTensors, "^The memory ran out: .* than is free", marks=pytest.mark.slow),
    ],
)
def test_what_ends_a_trial_is_one_sentence(callback, words, data):
    hypermodel, hp = watched(), keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    batch = data.train.dataset().take(1)
    with pytest.raises(FailedTrialError, match=words):
        hypermodel.fit(hp, model, batch, callbacks=[callback()], verbose=0)


@pytest.mark.parametrize(
    ("algorithm", "space", "epochs"),
    [
        ("random", {}, {1}),
        pytest.param(
            "hyperband",
            {"unfrozen": 1, "batch_norm": ["affine", "train"]},
            {1, 2},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_devices_share_out_an_uneven_dataset(algorithm, space, epochs, tmp_path):
    # A warning ends the search as an error does.
    flags = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *flags, "-m", "tests.tuning_mirrored_child", str(tmp_path)]
    command += [algorithm, json.dumps(SMALL | space)]
    child = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-3000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert {(status, message) for status, message, _ in found["trials"]} == {("COMPLETED", None)}
    assert {trained for *_, trained in found["trials"]} == epochs
    assert found["score"] == pytest.approx(found["right"], abs=1e-6)


def numbered(count, size):
    labels = np.arange(count, dtype=np.int32)
    pictures = np.broadcast_to(labels[:, None, None, None], (count, 2, 2, 3)).astype(np.uint8)
    return tf.data.Dataset.from_tensor_slices((pictures, labels)).batch(size)


def test_pictures_are_mixed_anew_in_each_epoch():
    batches = mixed(numbered(21, 8))
    assert batches.cardinality() == 3
    epochs = [[(np.array(x), np.array(y)) for x, y in batches] for _ in range(2)]
    orders = [np.concatenate([y for _, y in epoch]) for epoch in epochs]
    for epoch, order in zip(epochs, orders, strict=True):
        assert [len(y) for _, y in epoch] == [8, 8, 5]
        assert sorted(order) == list(range(21))
        assert all((x[:, 0, 0, 0] == y).all() for x, y in epoch)
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0], np.arange(21))


def test_what_fills_a_batch_has_no_weight():
    batches = [[np.array(each) for each in batch] for batch in filled(numbered(9, 4), 3)]
    assert [len(y) for _, y, _ in batches] == [6, 6, 3]
    assert [weights.tolist() for *_, weights in batches] == [
        [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [1, 0, 0],
    ]  # fmt: skip
    assert [y.tolist() for _, y, _ in batches] == [
        [0, 1, 2, 3, 0, 1], [4, 5, 6, 7, 4, 5], [8, 8, 8],
    ]  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_takes_integers_and_one_hot_labels(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 6)
    one_hot = np.eye(4, dtype=np.float32)[labels]
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    loss = CrossEntropy.from_config(CrossEntropy(label_smoothing=smoothing).get_config())
    for targets in (labels, one_hot):
        assert float(loss(targets, logits)) == pytest.approx(
            float(expected(one_hot, logits)), rel=1e-6
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"space": {"views": 2}}, r"`space` must not name any of .* Received: \['views'\]"),
        ({"space": {"pools": "avg"}}, "did you mean 'pooling'"),
        ({"pooling": "avg"}, r"`options` must not name any of .* Received: \['pooling'\]"),
        ({"depths": [18, 18]}, "each only once"),
    ],
)
def test_wrong_arguments_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        ResNetHyperModel(**{"num_classes": 2, "weights": None} | options)


def test_a_stage_that_a_backbone_does_not_have_is_told():
    options = {"num_classes": 2, "depths": [20], "weights": None, "stem": "cifar"}
    hypermodel = ResNetHyperModel(**options, space={"stage": 4})
    with pytest.raises(ValueError, match=r"for 'resnet20', which has \[1, 2, 3\]"):
        hypermodel.build(keras_tuner.HyperParameters())


def test_arrays_are_refused_with_a_sentence(data):
    hypermodel, hp = watched(), keras_tuner.HyperParameters()
    pictures, model = data.train.pictures(range(8)), hypermodel.build(hp)
    with pytest.raises(FatalTypeError, match=r"tf\.data\.Dataset.*Received: ndarray"):
        hypermodel.fit(hp, model, pictures, data.train.labels[:8], verbose=0)
