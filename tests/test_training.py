"""Fine-tuning: what moves, what stays, the cache against the live network, and the run folder."""

import csv
import gc
import hashlib
import json
import re
import subprocess
import sys
from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from resnet_keras.builder import build_resnet
from resnet_keras.data import Augmentation, load_images
from resnet_keras.distribution.sharing import Sharing
from resnet_keras.errors import DivergedError, RunError
from resnet_keras.layers import record_of
from resnet_keras.records import Recipe
from resnet_keras.stages import PARTS, BatchNormMode, part_of
from resnet_keras.training import Phase, fine_tune
from resnet_keras.training.cache import Activations, Views
from resnet_keras.training.feed import Feed
from resnet_keras.training.optimizers import averaged, make_optimizer
from resnet_keras.weights import read_weights
from tests.pictures import make_arrays

STILL = Augmentation(flip="none")


@pytest.fixture(scope="module")
def data():
    pictures, labels = make_arrays(3, count=12, size=32)
    recipe = Recipe(image_size=32, crop=1.0)
    return load_images(
        pictures, labels=labels, recipe=recipe, batch_size=7, validation=0.25, test=0.25
    )


def build(**arguments):
    keras.utils.set_random_seed(1)
    # Gammas of 0 would stop the gradients of their branches in the first step.
    arguments = {"num_classes": 3, "width": 0.125, "zero_init_residual": False} | arguments
    return build_resnet(18, **arguments)


def tensors(model):
    return {
        (layer.name, weight.name): np.copy(weight)
        for layer in model.layers
        for weight in layer.weights
    }


@pytest.mark.parametrize(
    ("optimizer", "head", "stages"), [("adamw", 1e-3, 2e-4), ("sgd", 0.1, 0.01)]
)
def test_stages_take_smaller_steps_than_the_head_whatever_their_batch_norm(optimizer, head, stages):
    assert Phase("head", optimizer=optimizer).peak_learning_rate(32) == head
    for batch_norm in get_args(BatchNormMode):
        phase = Phase("stage4", optimizer=optimizer, batch_norm=batch_norm)
        assert phase.peak_learning_rate(32) == stages


@pytest.mark.parametrize(
    ("start", "batch_norm", "cache"),
    [
        ("head", "frozen", "memory"),
        ("stage4", "train", "memory"),
        ("stage4", "affine", None),
        ("stage2", "frozen", None),
    ],
)
def test_frozen_weights_stay_to_the_bit_and_all_others_move(
    data, tmp_path, start, batch_norm, cache
):
    model = build()
    before = tensors(model)
    phase = Phase(start, epochs=1, batch_norm=batch_norm, learning_rate=0.01, warmup=0.0)
    fine_tune(
        model, data, run_dir=tmp_path / "run", phases=[phase], cache=cache, quiet=True,
        augmentation=STILL,
    )  # fmt: skip
    after = tensors(model)
    moved = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    trained = PARTS[PARTS.index(start) :]
    still = {"frozen": {"gamma", "beta"}, "affine": set(), "train": set()}[batch_norm]
    still |= set() if batch_norm == "train" else {"moving_mean", "moving_variance"}
    parts = {layer.name: part_of(layer) for layer in model.layers}
    assert moved == {
        (layer, weight)
        for layer, weight in before
        if parts[layer] in trained and weight not in still
    }


def losses(data, folder, cache, **arguments):
    arguments = {"augmentation": STILL, "quiet": True, "cache_bits": 32} | arguments
    phases = [
        Phase("head", epochs=2),
        Phase("stage3", epochs=2, batch_norm="train"),
        Phase("head", epochs=1),  # behind stages that are no longer those of the first phase
    ]
    result = fine_tune(build(), data, run_dir=folder, phases=phases, cache=cache, **arguments)
    return [row["loss"] for row in result.history], result


def test_training_from_the_cache_has_the_losses_of_training_through_the_frozen_part(data, tmp_path):
    live, _ = losses(data, tmp_path / "live", None)
    memory, _ = losses(data, tmp_path / "memory", "memory")
    disk, _ = losses(data, tmp_path / "disk", "disk")
    assert memory == disk
    np.testing.assert_allclose(memory, live, rtol=1e-5)
    assert not (tmp_path / "disk" / "cache").exists()


def test_one_epoch_of_the_head_follows_the_formula_of_gradient_descent(data, tmp_path):
    """A second implementation of the step: softmax regression on pooled features, in numpy."""
    model = build()
    rate = 0.05
    pool = keras.Model(model.input, model.get_layer("head_pool").output)
    features = pool.predict(data.train.pictures(np.arange(len(data.train))), verbose=0)
    features = features.astype(np.float64)
    kernel, bias = (np.asarray(value, np.float64) for value in model.get_layer("logits").weights)
    targets = np.eye(3)[data.train.labels]
    expected = []
    for _ in range(2):
        logits = features @ kernel + bias
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        expected.append(-np.log((shares * targets).sum(1)).mean())
        error = (shares - targets) / len(targets)
        # The first step of Nesterov momentum 0.9 is 1 + 0.9 times the plain one.
        kernel = kernel - 1.9 * rate * features.T @ error
        bias = bias - 1.9 * rate * error.sum(0)
    # One step an epoch, as all pictures are one batch.
    whole = load_images(
        data.train.pictures(np.arange(len(data.train))), labels=data.train.labels,
        recipe=data.recipe, batch_size=1000, validation=0, test=0,
    )  # fmt: skip
    phase = Phase("head", epochs=2, optimizer="sgd", learning_rate=rate, weight_decay=0, warmup=0)
    result = fine_tune(
        model, whole, run_dir=tmp_path / "run", phases=[phase], augmentation=STILL, quiet=True
    )
    assert [row["loss"] for row in result.history] == pytest.approx(expected, rel=1e-5)


def test_it_learns(data, tmp_path):
    pictures, labels = make_arrays(3, count=60, size=32)
    more = load_images(
        pictures, labels=labels, recipe=data.recipe, batch_size=16, validation=0.25, test=0.25
    )
    phases = [
        Phase("head", epochs=4, learning_rate=0.01),
        Phase("all", epochs=8, batch_norm="train"),
    ]
    result = fine_tune(
        build(), more, run_dir=tmp_path / "run", phases=phases, monitor="loss", quiet=True
    )
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert result.test.accuracy > 0.6  # 1/3 by chance


def test_equal_seeds_give_equal_bits_and_others_do_not(data, tmp_path):
    varied = Augmentation(flip="both", rotation=10, translation=0.1, brightness=0.1, contrast=0.1)
    phases = [Phase("stage4", epochs=1), Phase("all", epochs=1, batch_norm="train")]

    def train(name, seed):
        model = build(dropout=0.3)
        fine_tune(
            model, data, run_dir=tmp_path / name, phases=phases, augmentation=varied, views=6,
            seed=seed, quiet=True,
        )  # fmt: skip
        return tensors(model)

    first, second, other = train("a", 0), train("b", 0), train("c", 1)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["logits", "kernel"], other["logits", "kernel"])


def test_the_run_folder_holds_what_it_promises(data, tmp_path):
    phases = [Phase("head", epochs=2), Phase("stage4", epochs=1)]
    folder = tmp_path / "run"
    result = fine_tune(build(), data, run_dir=folder, phases=phases, quiet=True)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml", "environment.json", "metrics.csv", "metrics.json", "model.keras",
        "report.html", "manifest.json", "checkpoints/last.safetensors",
        "checkpoints/best.safetensors",
    } <= names  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == names - {"manifest.json"}
    for name, digest in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("head", "1"), ("head", "2"), ("stage4", "1"),
    ]  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] == pytest.approx(result.test.accuracy)
    assert json.loads((folder / "environment.json").read_text())["seed"] == 0
    loaded = keras.models.load_model(folder / "model.keras")
    pictures = data.test.pictures(np.arange(4))
    np.testing.assert_array_equal(
        loaded.predict(pictures, verbose=0), result.model.predict(pictures, verbose=0)
    )
    rebuilt = build_resnet(weights=folder)
    np.testing.assert_array_equal(
        rebuilt.predict(pictures, verbose=0), result.model.predict(pictures, verbose=0)
    )
    assert record_of(rebuilt).class_names == data.class_names


def test_the_best_epoch_by_the_monitor_is_kept(data, tmp_path):
    phase = Phase("stage4", epochs=6, learning_rate=0.05, batch_norm="train")
    result = fine_tune(
        build(), data, run_dir=tmp_path / "run", phases=[phase], monitor="loss", cache_bits=32,
        quiet=True,
    )  # fmt: skip
    best = min(row["val_loss"] for row in result.history)
    assert result.validation.loss == pytest.approx(best, rel=1e-4)


def test_a_run_that_is_there_is_refused_resumed_or_replaced(data, tmp_path):
    folder = tmp_path / "run"
    phases = [Phase("head", epochs=1)]
    first = fine_tune(build(), data, run_dir=folder, phases=phases, quiet=True)
    with pytest.raises(RunError, match="already holds a run: resume it"):
        fine_tune(build(), data, run_dir=folder, phases=phases, quiet=True)
    with pytest.raises(
        RunError, match="only be resumed with the settings it began with: seed was 0"
    ):
        fine_tune(build(), data, run_dir=folder, phases=phases, seed=1, resume=True, quiet=True)
    again = fine_tune(build(), data, run_dir=folder, phases=phases, resume=True, quiet=True)
    assert again.test.to_dict() == first.test.to_dict()
    assert again.history == first.history
    fine_tune(build(), data, run_dir=folder, phases=phases, seed=1, force=True, quiet=True)
    assert json.loads((folder / "environment.json").read_text())["seed"] == 1


def test_two_processes_are_never_in_one_run(data, tmp_path):
    arguments = {"run_dir": tmp_path / "run", "phases": [Phase("head", epochs=1)], "quiet": True}
    program = (
        "import pathlib, sys; from resnet_keras.training.runs import only_one\n"
        "with only_one(pathlib.Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(RunError, match="Another process is at work in the run folder"):
            fine_tune(build(), data, **arguments)
        assert not (tmp_path / "run").exists()
        other.kill()
    # The system has let go of what the killed one held.
    assert fine_tune(build(), data, **arguments).history


def test_a_run_in_a_place_that_cannot_be_is_refused(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written: (Not a directory|File exists)"):
        fine_tune(build(), data, run_dir=tmp_path / "file" / "run", phases=[Phase("head")])


def test_force_does_not_delete_a_folder_that_is_no_run(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="holds other files but no run"):
        fine_tune(build(), data, run_dir=tmp_path, phases=[Phase("head")], force=True, quiet=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("rate", [1e12, 1e30])
def test_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path, rate):
    pictures, labels = make_arrays(3, count=8, size=32)
    recipe = Recipe(image_size=32, crop=1.0)
    data = load_images(
        pictures, labels=labels, recipe=recipe, batch_size=24, validation=0, test=0
    )  # one step an epoch: it is the weights that are no numbers first, and then the loss
    broken = Phase("all", epochs=3, optimizer="sgd", learning_rate=rate, warmup=0)
    folder = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"must stay finite.*the last good checkpoint is kept"):
        fine_tune(build(), data, run_dir=folder, phases=[Phase("head", 1), broken], quiet=True)
    kept = read_weights(folder)
    assert all(np.isfinite(value).all() for value in kept.tensors.values())


def test_a_model_with_another_number_of_classes_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"one logit for each of the 3 classes.*num_classes=3"):
        fine_tune(build(num_classes=4), data, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="one logit for each of the 3 classes"):
        fine_tune(build(num_classes=None), data, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": "stage5"}, "`start` must be one of"),
        ({"start": "head", "epochs": 0}, "`epochs` must be at least 1. Received: epochs=0"),
        ({"start": "head", "learning_rate": -1.0}, "`learning_rate` must be positive"),
        ({"start": "head", "warmup": 1.0}, r"`warmup` must lie in \[0, 1\)"),
        ({"start": "head", "optimizer": "adam"}, "`optimizer` must be in"),
        ({"start": "head", "batch_norm": "off"}, "`batch_norm` must be"),
    ],
)
def test_a_wrong_phase_is_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        Phase(**arguments)


def test_views_beyond_the_flips_vary_in_every_other_respect(data):
    views = Views(5, Augmentation(flip="both", rotation=20, brightness=0.2), seed=3)
    places, count = np.arange(4), len(data.train)
    pictures = data.train.pictures(places)
    made = [
        np.asarray(views.transform(view, count=count)(pictures, places), np.float32)
        for view in range(5)
    ]
    for view, expected in enumerate(
        (pictures, pictures[:, :, ::-1], pictures[:, ::-1], pictures[:, ::-1, ::-1])
    ):
        assert any(np.array_equal(found, expected) for found in made[:4]), view
    assert all(np.abs(made[4] - found).mean() > 1 for found in made[:4])
    again = views.transform(4, count=count)
    np.testing.assert_array_equal(made[4], again(pictures, places))
    np.testing.assert_array_equal(made[4][2:3], again(pictures[2:3], places[2:3]))


def test_each_picture_goes_through_all_its_views_in_as_many_epochs(data):
    feed = Feed(
        data.train.labels, 3, lambda epoch, indices, views: (views,),
        specs=(tf.TensorSpec((), tf.int64),), sharing=Sharing(len(data.train), 7), seed=(0, 0),
        views=3,
    )  # fmt: skip
    orders = [[i for step in range(feed.steps) for i in feed.indices(epoch, step)]
              for epoch in range(3)]  # fmt: skip
    seen = {
        (picture, view)
        for epoch, order in enumerate(orders)
        for picture, view in zip(order, feed.views(epoch, np.array(order)), strict=True)
    }
    assert seen == {(picture, view) for picture in range(len(data.train)) for view in range(3)}
    assert sorted(orders[0]) != list(orders[0]) != list(orders[1])


def test_the_activations_are_let_go_when_the_run_is_over(data, tmp_path):
    """They take gigabytes, which would add up over the runs of one process."""
    gc.collect()
    before = {id(found) for found in gc.get_objects() if isinstance(found, Activations | Feed)}
    gc.disable()  # what only a collection frees may stay for long: it counts objects, not bytes
    try:
        fine_tune(
            build(), data, run_dir=tmp_path / "run", phases=[Phase("head", 1)], cache="memory",
            quiet=True,
        )  # fmt: skip
        alive = [
            found
            for found in gc.get_objects()
            if isinstance(found, Activations | Feed) and id(found) not in before
        ]
    finally:
        gc.enable()
    for found in alive:
        assert isinstance(found, Feed)
        with pytest.raises(RuntimeError, match="is over"):
            found.batch(0, 0)


def test_a_gradient_of_rounding_moves_no_weight():
    """Or the order of a sum decides where to; Keras's Adam goes a hundred times as far."""
    gradients = np.array([1e-2, 1e-9], "float32")
    weight = keras.Variable(np.zeros(2, "float32"))
    phase = Phase("stage4", learning_rate=0.1, weight_decay=0, warmup=0)
    make_optimizer(phase, steps=9, batch_size=8).apply([keras.ops.array(gradients)], [weight])
    steps = np.abs(np.asarray(weight)) / 0.1
    assert steps[0] > 0.95
    assert steps[1] < 1e-5


def test_what_is_kept_are_the_running_averages(data, tmp_path):
    """A second implementation of the average, over the weights of each step, in numpy."""
    model = build()
    trainer = keras.Model(model.input, model.output)
    phase = Phase("all", epochs=1, learning_rate=0.01, ema=0.8, warmup=0)
    trainer.compile(make_optimizer(phase, 5, 8), "mse", jit_compile=False)
    trainer.optimizer.build(trainer.trainable_variables)
    pictures, targets = data.train.pictures(np.arange(8)), np.eye(3)[np.arange(8) % 3]
    expected = None
    for _ in range(4):
        trainer.train_on_batch(pictures, targets)
        now = [np.array(variable) for variable in trainer.trainable_variables]
        pairs = zip(expected or now, now, strict=True)
        expected = [0.8 * old + 0.2 * new for old, new in pairs]
    with averaged(trainer, keep=False):
        found = [np.array(variable) for variable in trainer.trainable_variables]
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)
    for variable, value in zip(trainer.trainable_variables, now, strict=True):
        np.testing.assert_array_equal(variable, value)
    with averaged(trainer, keep=True):
        pass
    for variable, value in zip(trainer.trainable_variables, found, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_run_with_averages_ends_with_them(data, tmp_path):
    kernels = {}
    for name, ema in (("without", 0.0), ("with", 0.9)):
        model = build()
        phases = [Phase("head", epochs=3, learning_rate=0.05, ema=ema)]
        fine_tune(
            model, data, run_dir=tmp_path / name, phases=phases, augmentation=STILL, quiet=True
        )
        kernels[name] = np.array(model.get_layer("logits").kernel)
    start = np.array(build().get_layer("logits").kernel)
    moved = {name: np.abs(kernel - start).mean() for name, kernel in kernels.items()}
    assert 0 < moved["with"] < 0.8 * moved["without"]


def test_two_accumulated_batches_are_one_of_twice_the_size(data, tmp_path):
    pictures = data.train.pictures(np.arange(16))

    def kernel(name, batch_size, accumulate):
        half = load_images(
            pictures, labels=np.arange(16) % 2, recipe=data.recipe, batch_size=batch_size,
            validation=0, test=0,
        )  # fmt: skip
        model = build(num_classes=2)
        phase = Phase(
            "head", epochs=2, optimizer="sgd", weight_decay=0, warmup=0, accumulate=accumulate
        )
        fine_tune(
            model, half, run_dir=tmp_path / name, phases=[phase], augmentation=STILL, quiet=True
        )
        return np.array(model.get_layer("logits").kernel)

    np.testing.assert_allclose(kernel("half", 4, 4), kernel("whole", 16, 1), rtol=1e-5, atol=1e-7)


def test_phases_may_train_on_smaller_pictures(data, tmp_path):
    seen = []
    phases = [
        Phase("head", epochs=4, image_size=32),
        Phase("all", epochs=1, image_size=32, batch_norm="train"),
        Phase("all", epochs=1, batch_norm="train"),
    ]
    pictures, labels = make_arrays(3, count=12, size=64)
    large = load_images(
        pictures, labels=labels, recipe=Recipe(image_size=64, crop=1.0), batch_size=8
    )
    model = build()
    preprocess = model.get_layer("preprocess")
    call = preprocess.call
    preprocess.call = lambda images: (seen.append(tuple(images.shape)), call(images))[1]
    result = fine_tune(model, large, run_dir=tmp_path / "run", phases=phases, quiet=True)
    assert {shape[1] for shape in seen} == {32, 64}
    assert len(result.history) == 6
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert [phase["image_size"] for phase in config["phases"]] == [32, 32, None]
    assert config["cached"] == [True, False, False]
    with pytest.raises(ValueError, match="`image_size` of a phase must be at most"):
        fine_tune(
            build(), data, run_dir=tmp_path / "no", phases=[Phase("all", image_size=64)],
            quiet=True,
        )  # fmt: skip


def test_activations_are_shared_between_runs(data, tmp_path, capfd):
    """A second run with another seed and head finds all that it needs."""

    def run(name, seed):
        model = build()
        result = fine_tune(
            model, data, run_dir=tmp_path / name, phases=[Phase("stage4", epochs=1)],
            cache="disk", cache_dir=tmp_path / "shared", seed=seed,
        )  # fmt: skip
        return result.history

    run("first", 0)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*")}
    assert files
    run("second", 1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*")} == files
    assert not (tmp_path / "first" / "cache").exists()


def test_a_run_says_what_it_computes_in_and_what_it_will_cost(data, tmp_path, capfd):
    phases = [Phase("head", epochs=2), Phase("all", epochs=1)]
    fine_tune(
        build(), data, run_dir=tmp_path / "run", phases=phases, precision="bfloat16",
        cache="memory", augmentation=STILL,
    )  # fmt: skip
    said = capfd.readouterr().err
    assert "precision: bfloat16 (as asked for)" in said
    assert re.search(
        r"from pool cached in memory: [\d.]+ MB, first epoch about [\d.]+ s, then", said
    )
    assert "through the whole network, an epoch about" in said
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["precision"], config["cache_bits"]) == ("bfloat16", 8)
