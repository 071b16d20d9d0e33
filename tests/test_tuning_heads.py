"""Heads trained many at once, against Keras, which trains each of them alone."""

import dataclasses
import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from resnet_keras.evaluation import Evaluation
from resnet_keras.head import apply_head
from resnet_keras.specs import ResNetSpec
from resnet_keras.training.optimizers import Phase, make_optimizer
from resnet_keras.tuning import crew
from resnet_keras.tuning import heads as trained
from resnet_keras.tuning.heads import Task, make_job
from resnet_keras.tuning.scores import scores
from resnet_keras.tuning.space import Head
from resnet_keras.tuning.stack import Stack

PICTURES, CHANNELS, CLASSES, BATCH = 90, 12, 3, 16
PLAIN = {
    "backbone": "net",
    "stage": 4,
    "pooling": "avg",
    "normalization": "none",
    "dropout": 0.0,
    "hidden_layers": 0,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "label_smoothing": 0.0,
    "class_balance": False,
    "views": 2,
}
KINDS = {
    "linear": {},
    "balanced": {"class_balance": True, "label_smoothing": 0.2, "optimizer": "sgd"},
    "batch": {"normalization": "batch", "hidden_layers": 1, "units": 8, "activation": "relu"},
    "layer": {"normalization": "layer", "hidden_layers": 2, "units": 7, "activation": "gelu"},
    "silu": {"hidden_layers": 1, "units": 9, "activation": "silu", "optimizer": "sgd"},
    "batch alone": {"normalization": "batch", "learning_rate": 0.05},
}


class Rows:
    """Features that were drawn, where a backbone would have computed them."""

    width = CHANNELS

    def __init__(self, file):
        rng = np.random.default_rng(0)
        self.labels = rng.choice(CLASSES, PICTURES, p=[0.6, 0.3, 0.1])
        centres = 1.5 * rng.standard_normal((CLASSES, CHANNELS))
        noise = rng.standard_normal((2, PICTURES, CHANNELS))
        self.rows = (centres[self.labels] + noise).reshape(-1, CHANNELS).astype(np.float32)
        self.places = np.arange(2 * PICTURES).reshape(2, -1)
        self.file = file
        file.write_bytes(self.rows.tobytes())

    def columns(self, stage, pooling):
        return slice(0, CHANNELS)


@pytest.fixture
def task(tmp_path):
    features = Rows(tmp_path / "features")
    order = np.random.default_rng(1).permutation(PICTURES)
    return Task(
        {"net": features}, features.labels, CLASSES,
        train=order[:70], val=order[70:], batch_size=BATCH, epochs=3, objective="loss", seed=5,
    )  # fmt: skip


def train_heads(heads, task):
    return trained.train_heads(heads, [task] * len(heads))


def head(**values):
    return Head(PLAIN | values)


def keras_head(chosen, kernels):
    """The same head of Keras, with the same first weights."""
    spec = ResNetSpec(
        18,
        head=chosen.hidden,
        head_normalization=chosen.values["normalization"],
        head_activation=chosen.values.get("activation", "relu"),
    )
    inputs = keras.Input((CHANNELS,))
    model = keras.Model(inputs, apply_head(inputs, spec, CLASSES))
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    for layer, kernel in zip(dense, kernels, strict=True):
        layer.kernel.assign(kernel)
    for layer in model.layers:
        if hasattr(layer, "moving_mean"):
            layer.trainable = True
    return model


def keras_step(model, optimizer, loss, x, targets, weights):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        losses = loss(targets, model(x, training=True)) * weights
        objective = tf.reduce_mean(losses)
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(objective, variables), variables)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_that_of_keras(kind, task):
    chosen = head(**KINDS[kind])
    job = make_job([chosen], task)
    stack = Stack(job)
    model = keras_head(chosen, job.kernels)
    phase = Phase(
        "head", epochs=3, optimizer=chosen.values["optimizer"],
        learning_rate=chosen.values["learning_rate"], weight_decay=0.01,
    )  # fmt: skip
    optimizer = make_optimizer(phase, steps=15, batch_size=BATCH)
    optimizer.build(model.trainable_variables)
    smoothing = chosen.values["label_smoothing"]
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction=None
    )
    counts = np.bincount(task.labels[task.train])
    balance = len(task.train) / (CLASSES * counts) if chosen.values["class_balance"] else [1.0] * 3
    rng = np.random.default_rng(2)
    for step in range(15):
        pictures = rng.choice(task.train, BATCH if step % 5 < 4 else 6)
        x, labels = task.features["net"].rows[pictures], task.labels[pictures]
        targets = np.eye(CLASSES, dtype=np.float32)[labels]
        stack.step(x, labels, step)
        weights = np.array(balance, np.float32)[labels]
        keras_step(model, optimizer, loss, x, targets, weights)
    seen = task.features["net"].rows[task.val]
    expected = np.asarray(model(seen, training=False))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(stack.logits(seen)[0], expected, atol=2e-5, rtol=2e-5)


def test_a_head_alone_trains_as_among_others(task):
    heads = [
        head(learning_rate=rate, dropout=dropout, class_balance=balance)
        for rate, dropout, balance in ((1e-3, 0.5, False), (1e-2, 0.5, True), (3e-3, 0.2, False))
    ]
    together = train_heads([*heads, head(hidden_layers=1, units=4, activation="relu")], task)
    for number, each in enumerate(heads):
        [alone] = train_heads([each], task)
        assert alone | {"seconds": 0} == together[number] | {"seconds": 0}
    assert together[0]["loss"] != together[1]["loss"]


def test_heads_learn_and_report_their_best_epoch(task):
    [found] = train_heads([head(learning_rate=0.05)], dataclasses.replace(task, epochs=12))
    assert found["accuracy"] > 0.8
    assert 1 <= found["best_epoch"] <= 12
    [short] = train_heads([head(learning_rate=1e-6)], task)
    assert short["loss"] > found["loss"]


def test_heads_train_in_other_processes_as_in_this_one(task, monkeypatch):
    heads = [
        head(hidden_layers=layers, units=5, activation="relu", normalization=normalization)
        for layers in (0, 1, 2)
        for normalization in ("none", "batch", "layer")
    ]
    here = train_heads(heads, task)
    monkeypatch.setattr(crew, "LEAST_JOBS", 1)
    elsewhere = train_heads(heads, task)
    assert [each | {"seconds": 0} for each in here] == [each | {"seconds": 0} for each in elsewhere]


def test_a_process_begins_without_tensorflow():
    program = "import sys, resnet_keras.tuning.stack; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["False"]


def test_a_process_has_its_code_from_where_this_one_has_it(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("class Job:\n    seed = 'of another place'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with crew._Process() as process:
        answer = process.train(importlib.import_module("elsewhere").Job())
    assert isinstance(answer, AttributeError)  # and not one about a module that is not there


def test_a_process_that_is_killed_fails_its_head_alone(task, monkeypatch):
    monkeypatch.setattr(crew, "LEAST_JOBS", 1)
    begun = []
    start = crew._Process._start

    def kill_the_first(process):
        start(process)
        if not begun:
            process._process.kill()
        begun.append(process)

    monkeypatch.setattr(crew._Process, "_start", kill_the_first)
    jobs = [make_job([head(learning_rate=rate)], task) for rate in (1e-3, 2e-3, 3e-3, 4e-3)]
    found = crew.train_all(jobs)
    failed = [each for each in found if isinstance(each, Exception)]
    assert len(failed) == 1
    assert "ended with status -9" in str(failed[0])
    assert all(each[0]["loss"] > 0 for each in found if not isinstance(each, Exception))


def test_another_seed_is_another_run(task):
    [first] = train_heads([head()], task)
    [second] = train_heads([head()], dataclasses.replace(task, seed=6))
    assert first["loss"] != second["loss"]


def test_a_head_that_diverges_has_no_metrics_and_harms_no_other(task):
    fine, wild = head(optimizer="sgd", learning_rate=0.1), head(optimizer="sgd", learning_rate=1e9)
    [among, lost] = train_heads([fine, wild], dataclasses.replace(task, epochs=20))
    [alone] = train_heads([fine], dataclasses.replace(task, epochs=20))
    assert np.isnan(lost["loss"])
    assert np.isnan(lost["accuracy"])
    assert among["loss"] == alone["loss"]


def test_dropout_drops_its_share_and_keeps_the_mean():
    from resnet_keras.tuning.pointwise import Dropout

    rates = np.array([0.2, 0.5], np.float32)[:, None, None]
    layer = Dropout(rates, np.random.SFC64(0))
    found = layer.forward(np.ones((2, 201, 299), np.float32), training=True)
    np.testing.assert_allclose((found == 0).mean(axis=(1, 2)), [0.2, 0.5], atol=0.01)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), [1, 1], atol=0.02)
    assert (layer.backward(np.ones_like(found)) == found).all()


def test_scores_are_those_of_an_evaluation():
    rng = np.random.default_rng(3)
    logits, labels = rng.standard_normal((4, 50, 5)), rng.integers(4, size=50)  # one class missing
    for own, found in zip(logits, scores(logits, labels), strict=True):
        shares = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
        names = tuple(map(str, range(50)))
        expected = Evaluation(labels, shares, names, class_names=tuple("abcde"))
        for name, value in found.items():
            assert value == pytest.approx(getattr(expected, name), abs=1e-5), name
