"""Several devices and processes train what one device would."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from resnet_keras import build_resnet
from resnet_keras.distribution.sharing import Sharing
from tests.pictures import make_tree

OTHERS = ("history", "moved", "test")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(kind, folder, options, **environment):
    command = [sys.executable, "-m", "tests.distributed_child", kind, str(folder)]
    return subprocess.Popen(
        [*command, json.dumps(options)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_workers(count, folder, options, kind="multiworker"):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return [
        start(
            kind,
            folder,
            options,
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(count)
    ]


def finish(processes):
    for process in processes:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output


def outcome(folder, kind, index=0):
    with np.load(folder / f"{kind}-{index}.npz") as found:
        values = dict(found)
    history = json.loads(str(values["history"]))
    assert json.loads(str(values["moved"])) == []
    return values, history


def assert_same_bits(found, expected):
    """The weights are the same to the last bit, and so the losses to the last but one or two."""
    values, known = found[0], expected[0]
    for name in set(known) - set(OTHERS):
        np.testing.assert_array_equal(values[name], known[name], err_msg=name)
    assert_equal(found, expected, tolerance=1e-6)


def assert_equal(found, expected, tolerance=1e-4):
    (values, history), (known, rows) = found, expected
    assert len(history) == len(rows)
    for row, other in zip(history, rows, strict=True):
        assert row.keys() == other.keys()
        assert row["phase"] == other["phase"]
        numbers = {name: value for name, value in other.items() if name != "phase"}
        row = {name: row[name] for name in numbers}
        assert row == pytest.approx(numbers, rel=tolerance, abs=tolerance)
    for name in set(known) - set(OTHERS):
        scale = np.abs(known[name]).max() + 1
        np.testing.assert_allclose(values[name], known[name], atol=tolerance * scale, err_msg=name)
    np.testing.assert_allclose(values["test"], known["test"], atol=tolerance)


OPTIONS = {"batch_norm": "synchronized"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    finish([start("one", folder, OPTIONS)])
    return outcome(folder, "one")


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_devices_of_a_process_do_what_one_does(expected, tmp_path, devices):
    finish([start("mirrored", tmp_path, OPTIONS | {"devices": devices})])
    assert_same_bits(outcome(tmp_path, "mirrored"), expected)
    environment = json.loads((tmp_path / "mirrored" / "environment.json").read_text())
    assert environment["replicas"] == devices


@pytest.mark.slow
def test_the_scope_of_a_strategy_is_taken_as_the_strategy(expected, tmp_path):
    finish([start("scoped", tmp_path, OPTIONS)])
    assert_equal(outcome(tmp_path, "scoped"), expected)
    environment = json.loads((tmp_path / "scoped" / "environment.json").read_text())
    assert environment["replicas"] == 2


@pytest.mark.parametrize(
    ("kind", "exchange"), [("multiworker", "shared memory"), ("apart", "tf.distribute")]
)
def test_two_workers_do_what_one_process_does(expected, tmp_path, kind, exchange):
    finish(start_workers(2, tmp_path, OPTIONS, kind))
    for index in range(2):
        assert_same_bits(outcome(tmp_path, kind, index), expected)
    # Only one of the processes wrote, and what it wrote is a whole run.
    environment = json.loads((tmp_path / kind / "environment.json").read_text())
    assert (environment["workers"], environment["replicas"]) == (2, 2)
    assert environment["exchange"] == exchange
    assert (tmp_path / kind / "manifest.json").exists()


@pytest.mark.slow
def test_workers_without_common_memory_train_in_bfloat16_too(tmp_path):
    finish(start_workers(2, tmp_path, {"precision": "bfloat16"}, "apart"))
    one, other = (outcome(tmp_path, "apart", index) for index in range(2))
    assert_equal(one, other)


def test_a_step_compiled_by_xla_is_the_same_step(expected, tmp_path):
    finish([start("one", tmp_path, OPTIONS | {"jit_compile": True})])
    assert_equal(outcome(tmp_path, "one"), expected)


@pytest.mark.slow
def test_accumulation_on_several_devices_is_refused_before_a_run_begins(tmp_path):
    process = start("mirrored", tmp_path, {"accumulate": 2})
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "`accumulate` must be 1 where several devices" in output.splitlines()[-1]
    assert not (tmp_path / "mirrored").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 2},
        {"live": True},
        {"optimizer": "sgd", "ema": 0.9, "batch_norm": "synchronized"},
        {"batch_norm": "affine"},
        {"batch_norm": "synchronized", "live": True, "precision": "bfloat16"},
    ],
    ids=["frozen batch norm", "whole network", "averages", "affine", "bfloat16"],
)
def test_four_workers_do_what_one_device_does(options, tmp_path):
    finish([start("one", tmp_path, options)])
    finish(start_workers(4, tmp_path, options))
    expected = outcome(tmp_path, "one")
    for index in range(4):
        assert_same_bits(outcome(tmp_path, "multiworker", index), expected)


@pytest.mark.slow
def test_three_workers_do_about_what_one_device_does(expected, tmp_path):
    finish(start_workers(3, tmp_path, OPTIONS))
    for index in range(3):
        assert_equal(outcome(tmp_path, "multiworker", index), expected)


def stop_after_the_head(processes, run, number):
    """Sends SIGTERM to one process once the first phase is over; all of them must end by it."""
    while not (run / "metrics.csv").exists():
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.1)
    processes[number].send_signal(signal.SIGTERM)
    for process in processes:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 128 + signal.SIGTERM, output
    assert not (run / "manifest.json").exists()


@pytest.mark.slow
def test_two_workers_stop_as_one_and_one_process_goes_on(tmp_path):
    options = {"epochs": 3}
    finish([start("one", tmp_path, options)])
    expected = outcome(tmp_path, "one")
    shutil.rmtree(tmp_path / "one")
    workers = start_workers(2, tmp_path, options)
    stop_after_the_head(workers, tmp_path / "multiworker", number=1)
    (tmp_path / "multiworker").rename(tmp_path / "one")
    finish([start("one", tmp_path, options | {"resume": True})])
    assert_same_bits(outcome(tmp_path, "one"), expected)


@pytest.mark.slow
def test_one_process_stops_and_two_workers_go_on(tmp_path):
    # Wherever in a phase the one process stops, its statistics are those of the two.
    options = {"epochs": 3, "batch_norm": "synchronized"}
    finish(start_workers(2, tmp_path, options))
    expected = outcome(tmp_path, "multiworker")
    shutil.rmtree(tmp_path / "multiworker")
    stop_after_the_head([start("one", tmp_path, options)], tmp_path / "one", number=0)
    (tmp_path / "one").rename(tmp_path / "multiworker")
    finish(start_workers(2, tmp_path, options | {"resume": True}))
    assert_same_bits(outcome(tmp_path, "multiworker"), expected)


@pytest.mark.slow
def test_a_launched_run_survives_the_death_of_a_worker_to_the_same_bits(tmp_path):
    pictures = make_tree(tmp_path / "pictures", count=30)

    def launch(name, restarts):
        return subprocess.Popen(
            [sys.executable, "-m", "resnet_keras", "launch", "--workers", "2",
             "--max-restarts", str(restarts), "--log-dir", str(tmp_path / f"{name}-logs"), "--",
             "finetune", str(pictures), "--image-size", "64", "--batch-size", "16",
             "--head-epochs", "2", "--epochs", "2", "--run-dir", str(tmp_path / name),
             "--no-export"],
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def kill_worker(process, name):
        while not (tmp_path / name / "metrics.csv").exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        os.kill(max(workers_of(process.pid)), signal.SIGKILL)

    undisturbed = launch("undisturbed", 0)
    finish([undisturbed])
    disturbed = launch("disturbed", 1)
    kill_worker(disturbed, "disturbed")
    finish([disturbed])
    best = "checkpoints/best.safetensors"
    found, expected = (load_file(tmp_path / name / best) for name in ("disturbed", "undisturbed"))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    alone = launch("alone", 0)
    kill_worker(alone, "alone")
    output, _ = alone.communicate(timeout=30)
    assert alone.returncode == 128 + signal.SIGKILL, output
    assert "was killed by signal 9" in output.splitlines()[-1]
    # What was left behind holds what the head has learnt.
    model = build_resnet(weights=str(tmp_path / "alone"))
    checkpoint = load_file(tmp_path / "alone" / best)
    assert model.output_shape == (None, 3)
    kernel = model.get_layer("logits").kernel
    np.testing.assert_array_equal(kernel, checkpoint["model/logits/kernel"])


def workers_of(launcher):
    """Returns the process ids of the workers that a launcher has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == launcher and b"finetune" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize(("pictures", "replicas"), [(33, 2), (40, 3), (16, 4), (31, 8)])
def test_replicas_share_each_batch_and_keep_their_pictures(pictures, replicas):
    whole = Sharing(pictures, 8)
    shares = [Sharing(pictures, 8, replicas=replicas, numbers=range(n, n + 1))
              for n in range(replicas)]  # fmt: skip
    for epoch in range(3):
        order = whole.order((5, epoch))
        assert sorted(order[order >= 0]) == list(range(pictures))
        for share in shares:
            np.testing.assert_array_equal(share.order((5, epoch)), order)
        for row in order:
            parts = [share.own(row) for share in shares]
            assert {len(part) for part in parts} == {-(-int((row >= 0).sum()) // replicas)}
            together = np.concatenate(parts)
            assert sorted(together[together >= 0]) == sorted(row[row >= 0])
            for share, part in zip(shares, parts, strict=True):
                assert share.owned[part[part >= 0]].all()
    assert sum(share.owned for share in shares).tolist() == [1] * pictures
    assert not np.array_equal(whole.order((5, 0)), whole.order((5, 1)))


@pytest.mark.parametrize("pictures", [64, 62, 37, 33])
def test_groups_are_the_same_for_one_replica_two_and_four(pictures):
    def groups(replicas):
        """Returns the pictures of each group of each step, in all replicas together."""
        found = {}
        for number in range(replicas):
            share = Sharing(
                pictures, 32, replicas=replicas, numbers=range(number, number + 1),
                groups=4 // replicas,
            )  # fmt: skip
            for step, row in enumerate(share.order((3,))):
                for place, group in enumerate(np.split(share.own(row), 4 // replicas)):
                    found[step, number + place * replicas] = group.tolist()
                assert share.fills(step) == bool((row >= 0).sum() % 4)
        return found

    one = groups(1)
    assert sorted(picture for group in one.values() for picture in group if picture >= 0) == list(
        range(pictures)
    )
    assert groups(2) == one
    assert groups(4) == one
