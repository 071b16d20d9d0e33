"""The recipes run as they stand, on small pictures and few epochs."""

import json
import os
import socket
import subprocess
import sys

import pytest
import yaml

from recipes import (
    distributed,
    elpv,
    export_savedmodel,
    feature_pyramid,
    finetune_folder,
    linear_probe,
    tpu,
)
from resnet_keras import Phase
from tests.pictures import make_tree


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("photos"), count=10, size=72)


def test_the_linear_probe_learns_from_frozen_features(photos):
    assert linear_probe.main(photos, image_size=64, epochs=20) > 0.6  # 1/3 by chance


def test_a_folder_becomes_a_run_and_the_run_a_saved_model(photos, tmp_path):
    run = tmp_path / "run"
    accuracy = finetune_folder.main(photos, image_size=64, head_epochs=3, epochs=2, run_dir=run)
    assert accuracy > 0.4
    picture = photos / "birch" / "000.png"
    assert export_savedmodel.main(run, tmp_path / "served", picture) in ("ash", "birch", "cedar")


def test_a_small_fpn_learns_to_outline_discs(tmp_path):
    # Calling every pixel a disc gives 0.18.
    assert feature_pyramid.main(tmp_path / "discs.png", size=64, train=96, epochs=5) > 0.3
    assert (tmp_path / "discs.png").stat().st_size > 10_000


def test_the_distributed_program_trains_alone(photos, tmp_path, capsys):
    history = distributed.main(
        photos, image_size=64, batch_size=8, epochs=1, run_dir=tmp_path / "run", max_pictures=16
    )
    assert [row["phase"] for row in history] == ["head", "stage4"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in printed] == ["head 1", "stage4 1"]
    assert (tmp_path / "run" / "model.keras").exists()


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_print_the_losses_of_one_and_the_chief_alone_prints(photos, tmp_path):
    options = ("--image-size", 64, "--batch-size", 8, "--epochs", 1)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = [start("recipes.distributed", photos, *options, "--run-dir", tmp_path / "one")]
    cluster = {"chief": workers[:1], "worker": workers[1:]}
    for kind in cluster:
        config = {"cluster": cluster, "task": {"type": kind, "index": 0}}
        processes.append(
            start("recipes.distributed", photos, *options, "--run-dir", tmp_path / "two",
                  TF_CONFIG=json.dumps(config))
        )  # fmt: skip
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    one, chief, worker = (output.splitlines() for output, _ in outputs)
    assert not worker
    assert [line.split("  ")[0] for line in one] == ["head 1", "stage4 1"]
    figures, others = (
        [float(word) for line in lines for word in line.split()[3::2]] for lines in (one, chief)
    )
    assert others == pytest.approx(figures, abs=1e-4)
    # Alone, a process goes on with the run of two, which is at its end.
    again = start("recipes.distributed", photos, *options, "--run-dir", tmp_path / "two")
    assert again.communicate(timeout=300)[0].splitlines() == chief


def test_the_program_for_tpus_trains_in_static_shapes_on_a_cpu(photos, tmp_path):
    history = tpu.main(
        photos, strategy="auto", image_size=64, batch_per_core=8, epochs=1, run_dir=tmp_path / "run"
    )
    assert [row["phase"] for row in history] == ["head", "stage4"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["batch_size"], config["drop_remainder"]) == (8, True)
    with pytest.raises(ValueError, match="multiple of 8"):
        tpu.main(photos, strategy="auto", batch_per_core=12)


@pytest.mark.slow
def test_the_program_for_tpus_shares_a_batch_between_devices_of_jax(photos, tmp_path):
    run = start(
        "recipes.tpu", photos, "--strategy", "auto", "--image-size", 64, "--batch-per-core", 8,
        "--epochs", 1, "--run-dir", tmp_path / "run", KERAS_BACKEND="jax",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )  # fmt: skip
    output, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert "2 devices, 16 pictures a step" in output
    assert "stage4 1  loss" in output


@pytest.mark.slow
def test_the_benchmark_reports_every_figure_of_every_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(elpv, "PHASES", (Phase("head", epochs=2),))
    rows = elpv.main(seeds=2, folder=tmp_path)
    assert [set(row) for row in rows] == [
        {"accuracy", "balanced_accuracy", "f1", "seconds", "mono", "poly"}
    ] * 2
    # The share of functional cells: what a constant answer would get.
    assert all(row["accuracy"] > 0.69 for row in rows)
    assert "lowest" in capsys.readouterr().out
