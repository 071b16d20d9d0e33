"""Runs that are killed, stopped or out of disk go on to the bits of an undisturbed run."""

import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from resnet_keras.weights import read_weights

PROGRAM = """
import resource, sys
import keras
from resnet_keras import Augmentation, Phase, Recipe, build_resnet, fine_tune, load_images
from tests.pictures import make_arrays

folder, seed = sys.argv[1], int(sys.argv[2])
keras.utils.set_random_seed(seed)
pictures, labels = make_arrays(3, count=40, size=32)
data = load_images(pictures, labels=labels, recipe=Recipe(image_size=32, crop=1.0),
                   batch_size=8, validation=0.2, test=0)
model = build_resnet(18, num_classes=3, width=0.125, dropout=0.2, zero_init_residual=False)
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
fine_tune(
    model, data, run_dir=folder, seed=0, resume=True, cache="disk", views=6,
    phases=[Phase("head", epochs=2), Phase("stage4", epochs=3),
            Phase("all", epochs=6, batch_norm="train")],
    augmentation=Augmentation(flip="both", rotation=10, brightness=0.1),
)
"""


def start(folder, *arguments):
    command = [sys.executable, "-c", PROGRAM, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(folder, *arguments):
    process = start(folder, *arguments)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    return errors


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    began = time.monotonic()
    finish(folder, 0)
    return folder, time.monotonic() - began


def assert_equal_bits(folder, expected):
    for name in ("last", "best"):
        path = f"checkpoints/{name}.safetensors"
        found, wanted = (read_weights(each / path).tensors for each in (folder, expected))
        assert found.keys() == wanted.keys()
        differing = [key for key in wanted if not np.array_equal(found[key], wanted[key])]
        assert not differing


def wait_for_epoch(process, phase):
    """Reads what the run says until an epoch of this phase is done."""
    for line in process.stderr:
        if line.startswith(f"  {phase}"):
            return
    raise AssertionError(f"the run ended before an epoch of {phase}")


def stop(folder, number):
    """Sends a signal to a run in its last phase; returns its exit status and what it said."""
    process = start(folder, 0)
    wait_for_epoch(process, "all")
    time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.fixture(scope="module")
def terminated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "terminated"
    return folder, *stop(folder, signal.SIGTERM)


# The head of the resumed process starts from another seed: only the checkpoint may count.
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), pytest.param(signal.SIGINT, -2, marks=pytest.mark.slow)],
)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, undisturbed, number, code):
    folder = tmp_path / "run"
    status, said = stop(folder, number)
    assert status == code
    assert ("stopped at phase 3" in said) == (number != signal.SIGKILL)
    assert "resumed" in finish(folder, 1)
    assert_equal_bits(folder, undisturbed[0])


def test_a_run_that_was_asked_to_end_goes_on_to_the_same_bits(tmp_path, undisturbed, terminated):
    source, status, said = terminated
    assert status == 128 + signal.SIGTERM
    assert "stopped at phase 3" in said
    folder = shutil.copytree(source, tmp_path / "run")
    assert "resumed" in finish(folder, 1)
    assert_equal_bits(folder, undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_five_times_at_random_moments_ends_with_the_same_bits(
    tmp_path, undisturbed, seed
):
    folder, (expected, seconds) = tmp_path / "run", undisturbed
    draw = random.Random(seed)
    for attempt in range(5):
        process = start(folder, attempt)
        try:
            process.communicate(timeout=draw.uniform(0.3, 0.95) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    finish(folder, 99)
    assert_equal_bits(folder, expected)


def test_a_full_disk_ends_in_one_sentence_and_the_run_goes_on_later(
    tmp_path, undisturbed, terminated
):
    folder = shutil.copytree(terminated[0], tmp_path / "run")
    size = (folder / "checkpoints" / "last.safetensors").stat().st_size
    # No file may hold the weights, a third of this checkpoint: that is what a full disk looks like.
    process = start(folder, 0, size // 4)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "could not be written" in errors.splitlines()[-1]
    assert not list(folder.rglob(".*"))
    finish(folder, 0)
    assert_equal_bits(folder, undisturbed[0])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, undisturbed, terminated):
    folder = shutil.copytree(terminated[0], tmp_path / "run")
    last = folder / "checkpoints" / "last.safetensors"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    finish(folder, 0)
    assert_equal_bits(folder, undisturbed[0])
