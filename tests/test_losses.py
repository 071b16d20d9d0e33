"""Losses in which each class counts the same, against numpy."""

import keras
import numpy as np
import pytest

from resnet_keras.builder import build_resnet
from resnet_keras.data import Augmentation, load_images
from resnet_keras.records import Recipe
from resnet_keras.training import Phase, fine_tune
from resnet_keras.training.losses import make_loss
from tests.pictures import make_picture

COUNTS = (24, 6, 2)
STILL = Augmentation(flip="none")


@pytest.fixture(scope="module")
def data():
    labels = np.repeat(np.arange(3), COUNTS)
    pictures = np.stack([make_picture(label, size=32, seed=n) for n, label in enumerate(labels)])
    return load_images(
        pictures, labels=labels, recipe=Recipe(image_size=32, crop=1.0), batch_size=8,
        validation=0, test=0,
    )  # fmt: skip


def build():
    keras.utils.set_random_seed(1)
    return build_resnet(18, num_classes=3, width=0.125, zero_init_residual=False)


def softmax(logits):
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def test_each_class_has_the_same_sum_of_weights():
    labels = np.repeat(np.arange(3), COUNTS)
    targets = np.eye(3, dtype=np.float32)[labels]
    loss = make_loss(Phase("head", class_balance=True), labels, 3)
    # All logits alike: every picture has the plain loss log 3.
    losses = np.asarray(loss(targets, np.zeros((32, 3), np.float32)))
    sums = [losses[labels == label].sum() for label in range(3)]
    np.testing.assert_allclose(sums, np.full(3, 32 / 3 * np.log(3)), rtol=1e-6)


def test_a_class_without_pictures_does_no_harm():
    labels = np.array([0, 0, 1])
    loss = make_loss(Phase("head", class_balance=True), labels, 3)
    losses = loss(np.eye(3, dtype=np.float32)[labels], np.zeros((3, 3), np.float32))
    np.testing.assert_allclose(losses, np.log(3) * np.array([0.5, 0.5, 1.0]), rtol=1e-6)


def steps_by_hand(model, data, rate, smoothing, *, balanced):
    """Softmax regression on pooled features in numpy: the mean loss of two steps, and the kernel.

    All pictures are one batch.
    """
    pool = keras.Model(model.input, model.get_layer("head_pool").output)
    x = pool.predict(data.train.pictures(np.arange(32)), verbose=0).astype(np.float64)
    kernel, bias = (np.asarray(value, np.float64) for value in model.get_layer("logits").weights)
    targets = np.eye(3)[data.train.labels] * (1 - smoothing) + smoothing / 3
    weights = 32 / (3 * np.array(COUNTS))[data.train.labels] if balanced else np.ones(32)
    found = []
    for _ in range(2):
        shares = softmax(x @ kernel + bias)
        found.append(np.mean(weights * -(targets * np.log(shares)).sum(1)))
        error = weights[:, None] * (shares - targets) / 32
        # The first step of Nesterov momentum 0.9 is 1 + 0.9 times the plain one.
        kernel, bias = kernel - 1.9 * rate * x.T @ error, bias - 1.9 * rate * error.sum(0)
    return found


@pytest.mark.parametrize(("balanced", "smoothing"), [(True, 0.0), (True, 0.1), (False, 0.0)])
@pytest.mark.parametrize("cache", ["memory", None])
def test_training_follows_the_formula(data, tmp_path, balanced, smoothing, cache):
    """From memory, many steps in a call, and picture by picture through the network."""
    whole = load_images(
        data.train.pictures(np.arange(32)), labels=data.train.labels, recipe=data.recipe,
        batch_size=1000, validation=0, test=0,
    )  # fmt: skip
    model = build()
    expected = steps_by_hand(model, whole, 0.05, smoothing, balanced=balanced)
    phase = Phase(
        "head", 2, "sgd", 0.05, weight_decay=0, warmup=0, label_smoothing=smoothing,
        class_balance=balanced,
    )  # fmt: skip
    result = fine_tune(
        model, whole, run_dir=tmp_path / "run", phases=[phase], augmentation=STILL, cache=cache,
        quiet=True,
    )  # fmt: skip
    assert [row["loss"] for row in result.history] == pytest.approx(expected, rel=1e-4)


def test_short_batches_weigh_their_pictures_alike(data, tmp_path):
    """The loss of an epoch without learning is the same, however it is cut into batches."""
    found = []
    for batch_size in (32, 24):
        cut = load_images(
            data.train.pictures(np.arange(32)), labels=data.train.labels, recipe=data.recipe,
            batch_size=batch_size, validation=0, test=0,
        )  # fmt: skip
        phase = Phase("head", 1, learning_rate=1e-12, weight_decay=0, class_balance=True)
        result = fine_tune(
            build(), cut, run_dir=tmp_path / str(batch_size), phases=[phase], augmentation=STILL,
            quiet=True,
        )  # fmt: skip
        found.append(result.history[0]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_rare_class_is_found_more_often(data, tmp_path):
    recalls = {}
    for balanced in (False, True):
        phase = Phase("head", 10, learning_rate=0.01, class_balance=balanced)
        model = build()
        fine_tune(
            model, data, run_dir=tmp_path / str(balanced), phases=[phase], augmentation=STILL,
            quiet=True,
        )  # fmt: skip
        logits = model.predict(data.train.pictures(np.arange(32)), verbose=0)
        shares = softmax(logits)
        recalls[balanced] = shares[data.train.labels == 2, 2].mean()
    assert recalls[True] > recalls[False] + 0.1


def test_what_is_no_choice_is_refused():
    with pytest.raises(ValueError, match="`class_balance` must be True or False"):
        Phase("head", class_balance=2)
