"""Fine-tuning on JAX: on eight devices as on one, and as on TensorFlow.

The references are TensorFlow, whose own tests compare it with plain formulas, and one device.
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from resnet_keras.weights import read_weights
from tests.test_resume import assert_equal_bits, wait_for_epoch

pytestmark = pytest.mark.slow  # XLA compiles each step for seconds

DEVICES = 8
# Learning rates are small: a network that learns by the statistics of few pictures blows rounding
# errors up to 1e-3 within some steps of the usual size.
PROGRAM = """
import sys
import keras
import numpy as np
from resnet_keras import (
    Augmentation, Phase, Recipe, build_resnet, evaluate, fine_tune, load_images, save_weights,
)
from tests.named_weights import named_weights
from tests.pictures import make_arrays

def data_of(classes, count, batch_size):
    pictures, labels = make_arrays(classes, count=count, size=32)
    return load_images(pictures, labels=labels, recipe=Recipe(image_size=32, crop=1.0),
                       batch_size=batch_size, validation=0.25, test=0.25)

def network(classes, **options):
    keras.utils.set_random_seed(0)
    return build_resnet(8, stem="cifar", width=0.5, num_classes=classes, zero_init_residual=False,
                        **options)
"""
TRAIN = """
folder, weights, classes, count, batch_size, dropout, precision = sys.argv[1:]
classes = int(classes)
data = data_of(classes, int(count), int(batch_size))
model = network(classes, weights=weights, dropout=float(dropout))
found = named_weights(model, "before")
slow = {"optimizer": "sgd", "learning_rate": 5e-4}

def train(name, phases, **options):
    result = fine_tune(model, data, run_dir=f"{folder}/{name}", phases=phases, cache_bits=32,
                       precision=precision, quiet=True, **options)
    found.update(named_weights(model, name))
    found[f"{name}/losses"] = [[row["loss"], row["val_loss"]] for row in result.history]
    found[f"{name}/accuracy"] = [[row["accuracy"], row["val_accuracy"]] for row in result.history]
    found[f"{name}/test"] = result.test.probabilities

train("head", [Phase("head", 3, ema=0.9, accumulate=2),
               Phase("head", 2, label_smoothing=0.1, class_balance=True)],
      cache="memory")
train("stage3", [Phase("stage3", 2, **slow), Phase("stage3", 2, batch_norm="train", **slow)],
      cache="memory")
train("live", [Phase("stage2", 2, batch_norm="affine", layer_decay=0.5, **slow)], cache=None)
train("all", [Phase("all", 2, batch_norm="train", **slow),
              Phase("all", 1, batch_norm="synchronized", **slow)],
      cache=None, flips="both", augmentation=Augmentation(rotation=10, contrast=0.1))
pictures = data.test.pictures(np.arange(5))
found["five"] = evaluate(model, (pictures, np.arange(5) % classes)).probabilities
np.savez(f"{folder}/found.npz", **found)
"""
STAGES = ("head", "stage3", "live", "all")
EVEN, UNEVEN = (2, 16, 8), (3, 12, 12)  # classes, pictures of each, and of a batch


def start(program, *arguments, backend="jax", devices=1):
    flags = "--xla_backend_optimization_level=0"  # compiles in half the time
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": flags}
    command = [sys.executable, "-c", PROGRAM + program, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return said, errors


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a function to what a training found, each made once."""
    known = {}

    def weights(classes):
        path = tmp_path_factory.getbasetemp() / f"{classes}.safetensors"
        if not path.exists():
            save = "save_weights(network(int(sys.argv[1])), sys.argv[2])"
            finish(start(save, classes, path, backend="tensorflow"))
        return path

    def train(case, *, dropout=0.0, precision="float32", **where):
        key = (case, dropout, precision, *where.items())
        if key not in known:
            folder = tmp_path_factory.mktemp("runs")
            finish(start(TRAIN, folder, weights(case[0]), *case, dropout, precision, **where))
            with np.load(folder / "found.npz") as found:
                known[key] = dict(found)
        return known[key]

    return train


def assert_same_training(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(found[name], value, atol=tolerance * scale, err_msg=name)


# Batches of 12 and 6 pictures, which eight devices cannot share without filling them up.
def test_eight_devices_train_as_one(trained):
    expected = trained(UNEVEN, dropout=0.3)
    assert_same_training(trained(UNEVEN, dropout=0.3, devices=DEVICES), expected, 1e-4)
    for name in STAGES:
        assert not np.array_equal(
            expected[f"{name}/logits/kernel"], expected["before/logits/kernel"]
        )


def test_jax_trains_as_tensorflow(trained):
    expected = trained(EVEN, backend="tensorflow")
    assert_same_training(trained(EVEN), expected, 1e-4)


@pytest.mark.parametrize("devices", [1, DEVICES])
def test_frozen_weights_stay_to_the_bit_and_others_move(trained, devices):
    where = {"devices": devices} if devices > 1 else {}
    found = trained(UNEVEN, dropout=0.3, **where)

    def moved(stage, before):
        names = [name.removeprefix(f"{stage}/") for name in found if name.startswith(f"{stage}/")]
        return {
            name for name in names
            if name.count("/") == 1
            and not np.array_equal(found[f"{stage}/{name}"], found[f"{before}/{name}"])
        }  # fmt: skip

    assert moved("head", "before") == {"logits/kernel", "logits/bias"}
    in_stage3 = moved("stage3", "head")
    assert {name.split("_")[0].split("/")[0] for name in in_stage3} == {"stage3", "logits"}
    assert any(name.endswith("moving_mean") for name in in_stage3)
    live = moved("live", "stage3")
    assert {name.split("_")[0].split("/")[0] for name in live} == {"stage2", "stage3", "logits"}
    assert any(name.endswith("gamma") for name in live)
    assert not any(name.endswith(("moving_mean", "moving_variance")) for name in live)
    assert "stem_bn/moving_mean" in moved("all", "live")


def test_bfloat16_trains_about_as_float32_does(trained):
    exact = trained(UNEVEN, dropout=0.3)
    rough = trained(UNEVEN, dropout=0.3, precision="bfloat16", devices=DEVICES)
    for name in STAGES:
        losses = rough[f"{name}/losses"]
        np.testing.assert_allclose(losses, exact[f"{name}/losses"], rtol=0.05)
        assert not np.array_equal(losses, exact[f"{name}/losses"])


LONG = """
folder, weights, dropout = sys.argv[1:]
model = network(2, weights=weights or None, dropout=float(dropout))
slow = {"optimizer": "sgd", "learning_rate": 1e-5}
fine_tune(model, data_of(2, 16, 8), run_dir=folder, resume=True, cache="disk", cache_bits=32,
          phases=[Phase("head", 2), Phase("stage3", 40, ema=0.9, **slow),
                  Phase("all", 2, accumulate=2, batch_norm="train", **slow)])
"""


def stop_and_resume(folder, *arguments, before, after):
    process = start(LONG, folder, *arguments, **before)
    wait_for_epoch(process, "stage3")  # of 40, each of which takes milliseconds
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped at phase 2" in said
    assert "resumed" in finish(start(LONG, folder, *arguments, **after))[1]


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    where = {"devices": 2}
    finish(start(LONG, tmp_path / "whole", "", 0.2, **where))
    stop_and_resume(tmp_path / "stopped", "", 0.2, before=where, after=where)
    assert_equal_bits(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_that_began_on_tensorflow_goes_on_on_jax(tmp_path):
    weights = tmp_path / "start.safetensors"
    on_tensorflow = {"backend": "tensorflow"}
    finish(start("save_weights(network(2), sys.argv[1])", weights, **on_tensorflow))
    finish(start(LONG, tmp_path / "whole", weights, 0, **on_tensorflow))
    after = {"devices": 2}
    stop_and_resume(tmp_path / "moved", weights, 0, before=on_tensorflow, after=after)
    found, expected = (
        read_weights(tmp_path / name / "checkpoints" / "last.safetensors").tensors
        for name in ("moved", "whole")
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


REFUSED = """
import tensorflow as tf
from resnet_keras import export_model
from resnet_keras.distribution.replicas import replicas_of
from resnet_keras.distribution.strategies import describe, get_strategy

model = network(2)
images = np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 1, 1])
for refused in (
    lambda: get_strategy("tpu"), lambda: get_strategy("multiworker"),
    lambda: evaluate(model, images, strategy=tf.distribute.OneDeviceStrategy("CPU:0")),
    lambda: export_model(model, sys.argv[1]),
    lambda: fine_tune(model, data_of(2, 8, 8), run_dir=sys.argv[1], jit_compile=False),
):
    try:
        refused()
    except Exception as error:
        print(type(error).__name__, error)
print(describe(get_strategy("none")), "/", describe(get_strategy("auto")))
print(len(network(2).get_layer("logits").kernel.value.devices()))
"""


def test_what_jax_cannot_do_is_refused_in_a_sentence(tmp_path):
    said = finish(start(REFUSED, tmp_path / "none", devices=DEVICES))[0].splitlines()
    assert said[0].startswith("WorkersError The strategy tpu needs a TPU, but JAX finds devices of")
    assert said[1].startswith("ValueError The strategy multiworker runs on TensorFlow alone")
    assert said[2].startswith(
        "ValueError On JAX `strategy` must be a name, or a keras.distribution"
    )
    assert said[3].startswith("ExportError A SavedModel is written on TensorFlow alone, but Keras")
    assert said[4].startswith("ValueError `jit_compile` must be True or None on JAX")
    assert said[5:] == ["one device / 8 devices in this process, DataParallel", "8"]
    assert not (tmp_path / "none").exists()
