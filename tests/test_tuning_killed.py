"""Searches from the command line that are killed, alone and in several processes."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_keras.builder import build_network
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import save_weights
from tests.pictures import make_tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
]
TRIALS, NETWORKS, KILLS = 40, 2, 5


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """Returns the arguments of a search of some ten seconds."""
    folder = tmp_path_factory.mktemp("search")
    record = Record(ResNetSpec(18, width=0.125), Recipe(32, 1.0), name="thin", licence="MIT")
    weights = save_weights(build_network(record, num_classes=7), folder / "thin.safetensors")
    photos = make_tree(folder / "photos", ("ash", "birch"), count=60)
    return [
        "tune", photos, "--weights", weights, "--image-size", "32", "--max-trials", TRIALS,
        "--epochs", "20", "--fine-tunes", NETWORKS, "--fine-epochs", "2", "--batch-size", "16",
    ]  # fmt: skip


def start(*arguments):
    command = [sys.executable, "-m", "resnet_keras", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def trials(folder):
    """What the table of a search says of its trials, but for times."""
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "latency_ms")} for row in rows]


def ended(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]


def test_a_search_killed_at_five_moments_ends_as_one_that_was_not(search, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begin = time.monotonic()
    ended(start(*search, "--run-dir", whole))
    seconds = time.monotonic() - begin
    moments = random.Random(0)
    for _ in range(KILLS):
        resumed = ["--resume"] if (killed / "config.yaml").exists() else []
        process = start(*search, "--run-dir", killed, *resumed)
        time.sleep(moments.uniform(0.2, 0.8) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    ended(start(*search, "--run-dir", killed, "--resume"))
    assert len(trials(killed)) == TRIALS + NETWORKS
    assert trials(killed) == trials(whole)
    assert (killed / "best.yaml").read_text() == (whole / "best.yaml").read_text()


def test_the_trials_of_a_worker_that_is_killed_go_to_the_others(search, tmp_path):
    folder = tmp_path / "run"
    process = start("launch", "--tuner", "--workers", 3, "--", *search, "--run-dir", folder)
    worker = None
    while worker is None and process.poll() is None:
        time.sleep(0.1)
        worker = busy_worker(folder)
    os.kill(worker, signal.SIGKILL)
    ended(process)
    found = trials(folder)
    assert [row["tier"] for row in found] == ["head"] * TRIALS + ["fine-tune"] * NETWORKS
    assert all(row["status"] == "COMPLETED" or row["reason"] for row in found)


def test_workers_leave_where_no_network_is_worth_a_repeat(search, tmp_path):
    folder = tmp_path / "run"
    # Each step turns the weights round and makes them a hundred times as large.
    wild = ["optimizer=sgd", "weight_decay=1", "unfrozen=1", "fine_learning_rate=100"]
    wild = [word for each in wild for word in ("--space", each)]
    ended(start("launch", "--tuner", "--workers", 2, "--", *search, *wild, "--run-dir", folder))
    networks = [row for row in trials(folder) if row["tier"] == "fine-tune"]
    assert [row["status"] for row in networks] == ["FAILED"] * NETWORKS
    assert all("diverged" in row["reason"] for row in networks)


def busy_worker(folder):
    """Returns the process of a worker once trials are under way."""
    started = [path.read_text() for path in (folder / "heads").glob("trial_*/starts.json")]
    if not any('"starts": 1' in text for text in started):
        return None
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
            arguments = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if b"KERASTUNER_TUNER_ID=worker-1" in variables and str(folder).encode() in arguments:
            return int(path.parent.name)
    return None
