"""The command line from outside: exit codes, sentences, tables, and a whole run."""

import csv
import io
import json
import subprocess
import sys

import pytest
import yaml

from resnet_keras.builder import build_network
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import save_weights
from tests.pictures import break_files, make_tree


def call(*arguments, cwd=None):
    # As where JAX is not installed.
    program = "import sys; sys.modules['jax'] = None; from resnet_keras.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns a file with the weights of a thin network."""
    record = Record(ResNetSpec(18, width=0.125), Recipe(32, 1.0), name="thin", licence="MIT")
    path = tmp_path_factory.mktemp("weights") / "thin.safetensors"
    return save_weights(build_network(record, num_classes=7), path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, weights):
    """Returns (pictures, broken files, run folder, what was printed) of one whole run."""
    folder = tmp_path_factory.mktemp("project")
    photos = make_tree(folder / "photos", count=20)
    broken = break_files(photos, share=0.1)
    done = call(
        "finetune", photos, "--weights", weights, "--on-bad-image", "skip", "--head-epochs", "1",
        "--epochs", "2", "--batch-size", "16", "--run-dir", folder / "runs" / "photos",
        "--image-size", "48", "--small-size", "32", "--ema", "0.9", "--accumulate", "2",
        "--precision", "float32", "--cache-bits", "16", "--cache", "disk",
        "--cache-dir", folder / "activations",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return photos, broken, folder / "runs" / "photos", done


def test_a_tree_with_bad_files_is_fine_tuned_and_each_bad_file_is_named(run):
    _, broken, folder, done = run
    assert broken
    page = (folder / "report.html").read_text()
    for path in broken:
        assert f"{path.parent.name}/{path.name}" in done.stdout
        assert f"{path.parent.name}/{path.name}" in page
    assert (folder / "MODEL_CARD.md").exists()
    assert (folder / "saved_model" / "1" / "saved_model.pb").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "saved_model/1/saved_model.pb" in manifest


def test_the_options_of_a_run_are_in_its_config(run):
    _, _, folder, done = run
    config = yaml.safe_load((folder / "config.yaml").read_text())
    head, small, full = config["phases"]
    assert [phase["image_size"] for phase in (head, small, full)] == [None, 32, None]
    assert [phase["epochs"] for phase in (head, small, full)] == [1, 1, 1]
    assert {(phase["ema"], phase["accumulate"]) for phase in config["phases"]} == {(0.9, 2)}
    assert (config["precision"], config["cache_bits"]) == ("float32", 16)
    assert any((folder.parent.parent / "activations").rglob("*"))
    assert "precision: float32 (as asked for)" in done.stderr


def test_predict_names_bad_files_and_says_so_by_its_exit_code(run):
    photos, broken, folder, _ = run
    done = call("predict", folder, photos, "--csv")
    assert done.returncode == 3
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 60
    assert sum(bool(row["error"]) for row in rows) == len(broken)
    good = [row for row in rows if not row["error"]]
    assert all(row["label"] in ("ash", "birch", "cedar") for row in good)
    shares = [float(good[0][name]) for name in ("ash", "birch", "cedar")]
    assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_predict_prints_json_and_a_table(run):
    photos, broken, folder, _ = run
    picture = next(path for path in sorted(photos.glob("*/*.png")) if path not in broken)
    found = json.loads(call("predict", folder, picture, "--json").stdout)
    table = call("predict", folder, picture, "--top", "2").stdout
    assert found[0]["label"] in table
    assert str(picture) in table


def test_evaluate_gives_the_figures_of_the_run(run):
    photos, _, folder, _ = run
    done = call("evaluate", folder, photos, "--on-bad-image", "skip", "--json")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert json.loads(done.stdout)["accuracy"] == pytest.approx(metrics["test"]["accuracy"])


def test_export_writes_the_next_version(run):
    _, _, folder, _ = run
    done = call("export", folder, "--precision", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert (folder / "saved_model/2/assets.extra/precision.txt").read_text() == "bfloat16\n"
    assert done.stdout.strip().endswith("saved_model/2")
    assert "saved_model/2/saved_model.pb" in json.loads((folder / "manifest.json").read_text())


def test_an_existing_run_is_refused(run, weights):
    photos, _, folder, _ = run
    done = call(
        "finetune", photos, "--weights", weights, "--run-dir", folder, "--on-bad-image", "skip"
    )
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1].startswith(f"error: The folder {folder} already holds")


def test_help_answers_without_tensorflow():
    program = (
        "import sys; from resnet_keras.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["fintune"], 2, "No such command 'fintune'. Did you mean 'finetune', 'tune'?"),
        (["finetune", "x", "--epohcs", "3"], 2, "--epochs"),
        (["finetune", "x", "--batch-norm", "off"], 2, "'frozen', 'affine', 'train'"),
        (["finetune", "missing", "--weights", "open_nsfw"], 3, "error: "),
        (["finetune", "x", "--weights", "open_nsfv"], 4, "open_nsfw"),
        (["summary", "--depth", "51"], 2, "`depth` must be one of"),
        (["predict", "runs/x", "a.jpg", "--json", "--csv"], 2, "both --json and --csv"),
        (["weights", "info", "resnet"], 4, "open_nsfw"),
    ],
)
def test_a_mistake_ends_in_a_sentence_and_its_code(arguments, code, sentence, tmp_path):
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_summary_counts_the_parameters_of_the_paper():
    done = call("summary", "--depth", "18", "--image-size", "224", "--json")
    rows = json.loads(done.stdout)
    assert sum(row["macs"] for row in rows) == 1_814_073_344


def test_weights_info_states_licence_and_recipe():
    facts = json.loads(call("weights", "info", "open_nsfw", "--json").stdout)
    assert facts["record"]["licence"] == "BSD-2-Clause"
    assert facts["record"]["recipe"]["mean"] == [123.0, 117.0, 104.0]
    assert facts["parameters"] == 5_904_578


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert call("--version").stdout == f"resnet-keras {version('resnet_keras')}\n"
