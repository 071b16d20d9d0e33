"""Options of `finetune` from a file: what is taken from it, what wins, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from resnet_keras.builder import build_network
from resnet_keras.cli.finetune import _units
from resnet_keras.cli.main import app, main
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import read_weights, save_weights
from tests.pictures import make_tree
from tests.test_cli import call
from tests.test_launch import BEGINS, PYTHON


def sentence(done):
    """Returns what was said in place of a traceback."""
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "Traceback" not in done.stderr
    return line


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Returns a folder with pictures, weights and a config that names all there is to name."""
    folder = tmp_path_factory.mktemp("project")
    make_tree(folder / "photos", count=16)
    record = Record(ResNetSpec(18, width=0.125), Recipe(32, 1.0), name="thin", licence="MIT")
    save_weights(build_network(record, num_classes=7), folder / "thin.safetensors")
    options = {
        "source": "photos/", "weights": "thin.safetensors", "last_stage": 3, "pooling": "both",
        "head": [16, 8], "head_normalization": "batch", "head_activation": "gelu", "dropout": 0.1,
        "head_epochs": 1, "epochs": 1, "start": "stage3", "optimizer": "sgd",
        "head_learning_rate": 0.02, "learning_rate": 0.01, "weight_decay": 0.001,
        "batch_norm": "affine", "label_smoothing": 0.1, "class_balance": True, "layer_decay": 0.5,
        "image_size": 32, "batch_size": 16, "cache_bits": "16", "run_dir": None, "export": False,
    }  # fmt: skip
    text = yaml.safe_dump(options).replace("weight_decay: 0.001", "weight_decay: 1e-3")
    (folder / "best.yaml").write_text(text)
    return folder


def test_a_config_alone_is_enough(project):
    done = call("finetune", "--config", "best.yaml", cwd=project)
    assert done.returncode == 0, done.stderr[-3000:]
    run = project / "runs" / "photos"
    config = yaml.safe_load((run / "config.yaml").read_text())
    head, stages = config["phases"]
    assert (head["start"], head["learning_rate"], head["layer_decay"]) == ("head", 0.02, 1.0)
    assert (stages["start"], stages["learning_rate"], stages["layer_decay"]) == (
        "stage3",
        0.01,
        0.5,
    )
    assert (head["batch_norm"], stages["batch_norm"]) == ("frozen", "affine")
    for phase in (head, stages):
        assert (phase["optimizer"], phase["weight_decay"]) == ("sgd", 0.001)
        assert (phase["label_smoothing"], phase["class_balance"]) == (0.1, True)
    assert (config["cache_bits"], config["batch_size"]) == (16, 16)
    assert not (run / "saved_model").exists()
    assert "stage4 of 'thin' is left out: the model ends at stage3" in done.stderr
    weights = read_weights(run)
    spec = weights.record.spec
    assert (spec.last_stage, spec.pooling, spec.head) == (3, "both", (16, 8))
    assert (spec.head_normalization, spec.head_activation) == ("batch", "gelu")
    assert weights.tensors["head_1_dense/kernel"].shape == (64, 16)


def test_the_command_line_wins(project, monkeypatch):
    monkeypatch.chdir(project)
    command = get_command(app).get_command(None, "finetune")
    arguments = [
        "elsewhere", "--config", "best.yaml", "--epochs", "0", "--head", "", "--dropout", "0",
        "--no-class-balance", "--run-dir", "runs/other", "--export",
    ]  # fmt: skip
    found = command.make_context("finetune", arguments).params
    given = ("source", "epochs", "head", "dropout", "class_balance", "run_dir", "export")
    assert [found[name] for name in given] == [
        "elsewhere", 0, "", 0.0, False, Path("runs/other"), True,
    ]  # fmt: skip
    kept = ("pooling", "last_stage", "weight_decay", "cache_bits", "seed")
    assert [found[name] for name in kept] == ["both", 3, 0.001, "16", 0]


def test_no_units_are_no_hidden_layers_and_none_given_are_those_of_the_weights():
    assert [_units(text) for text in ("256, 128", "", None)] == [(256, 128), (), None]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epohcs: 3", "must name options. Received: epohcs; did you mean epochs?"),
        ("3: 3", "must name options. Received: 3"),
        ("run-dir: runs/x", "Received: run-dir; did you mean run_dir?"),
        ("force: true", "Received: force, which is for the command line alone"),
        ("epochs: ten", "must give epochs an integer. Received: 'ten'"),
        ("epochs: true", "must give epochs an integer. Received: True"),
        ("epochs: 2.0", "must give epochs an integer. Received: 2.0"),
        ("epochs: -1", "gives epochs a wrong value, -1: "),
        ("last_stage: 5", "gives last_stage a wrong value, 5: "),
        ("dropout: [0.1]", "must give dropout a number. Received: [0.1]"),
        ("dropout: .nan", "gives dropout a wrong value, nan"),
        ("pooling: mean", "must give pooling one of avg, max, both. Received: 'mean'"),
        ("head: 256", "must give head a list of integers. Received: 256"),
        ("head: [a]", "must give head a list of integers. Received: ['a']"),
        ("export: 1", "must give export true or false. Received: 1"),
        ("run_dir: 5", "must give run_dir a text. Received: 5"),
        ("- epochs", "must hold option names and their values, such as epochs: 10. Received: list"),
        ("", "must hold option names and their values, such as epochs: 10. Received: NoneType"),
        ("epochs: [", "cannot be read: "),
        ("!!python/object/apply:os.system ['touch hacked']", "cannot be read: "),
        ("epochs: \0", "cannot be read: "),
        (b"\xff\xfe\x00", "cannot be read: "),
    ],
)
def test_a_wrong_file_is_answered_by_a_sentence(tmp_path, capsys, text, words):
    path = tmp_path / "best.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit) as left:
        main(["finetune", "--config", str(path)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: The file {path} of --config ")
    assert words in said
    assert said.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["best.yaml"]


def test_a_file_that_is_not_there_is_named(tmp_path):
    done = call("finetune", "--config", "nowhere.yaml", cwd=tmp_path)
    assert "The file nowhere.yaml of --config cannot be read: No such file" in sentence(done)


def test_without_a_source_one_is_asked_for(tmp_path):
    (tmp_path / "best.yaml").write_text("epochs: 3\n")
    done = call("finetune", "--config", "best.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "Missing argument" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--small-size", "64", "--epochs", "1"], "`small_size` needs `epochs` of 2 or more"),
        (["--head", "a,b"], "`--head` must give the units of each hidden layer"),
        (["--epochs", "0", "--head-epochs", "0"], "or nothing trains"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path, capsys, options, words):
    with pytest.raises(SystemExit) as left:
        main(["finetune", "photos", *options])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said


def test_a_launch_finds_source_and_run_folder_in_the_config(tmp_path):
    """After a restart it resumes, which it knows from the run folder that the source names."""
    (tmp_path / "best.yaml").write_text("source: data/photos/\nepochs: 3\n")
    fake = tmp_path / "python"
    begins = BEGINS.format(run=tmp_path / "runs" / "photos")
    fake.write_text(PYTHON.format(python=sys.executable, folder=tmp_path, begins=begins))
    fake.chmod(0o755)
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    (tmp_path / "runs" / "photos" / "config.yaml").touch()  # of an older run
    program = (
        f"import sys; sys.executable = {str(fake)!r}\nfrom resnet_keras.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "launch", "--workers", "2", "--max-restarts", "1",
         "--", "finetune", "--config", "best.yaml", "--force"],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 137, done.stderr
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first == "-P -m resnet_keras finetune --config best.yaml --force"
    assert second == "-P -m resnet_keras finetune --resume --config best.yaml"


def test_a_launch_tells_a_wrong_config_before_anything_starts(tmp_path):
    (tmp_path / "best.yaml").write_text("source: photos\nepohcs: 3\n")
    done = call("launch", "--workers", "2", "--", "finetune", "--config", "best.yaml", cwd=tmp_path)
    assert "did you mean epochs?" in sentence(done)
    assert [file.name for file in tmp_path.iterdir()] == ["best.yaml"]
