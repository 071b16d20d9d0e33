"""A whole search: both tiers, the winner, what the folder holds, and what goes wrong."""

import csv
import json

import numpy as np
import pytest
import yaml

from resnet_keras import Phase, load_images, tune
from resnet_keras.builder import build_network
from resnet_keras.cli import main
from resnet_keras.cli.tune import _show as show
from resnet_keras.errors import TuningError
from resnet_keras.evaluation import evaluate
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import save_weights
from tests.pictures import make_tree

SETTINGS = {
    "max_trials": 7,
    "epochs": 3,
    "finalists": 2,
    "repeats": 2,
    "fine_tunes": 3,
    "fine_epochs": 2,
    "fine_repeats": 2,
    "quiet": True,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns files with the weights of two thin networks."""
    folder = tmp_path_factory.mktemp("weights")
    found = []
    for depth in (18, 34):
        record = Record(ResNetSpec(depth, width=0.125), Recipe(32, 1.0), name="thin", licence="MIT")
        found.append(folder / f"thin{depth}.safetensors")
        save_weights(build_network(record, num_classes=7), found[-1])
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("photos"), ("ash", "birch"), count=40)


@pytest.fixture(scope="module")
def data(photos):
    return load_images(photos, image_size=32, batch_size=16)


@pytest.fixture(scope="module")
def search(tmp_path_factory, weights, data, photos):
    folder = tmp_path_factory.mktemp("searches") / "first"
    options = {"source": str(photos), "validation": 0.15, "test": 0.15}
    return tune(
        data, run_dir=folder, weights=weights, space=STAGES, source_options=options, **SETTINGS
    )


# Fewer of them are measured sooner.
HEADS = SETTINGS | {"fine_tunes": 0}
STAGES = {"stage": [4, 3]}
# With a large learning rate each step turns the weights round and makes them larger.
WILD = {"stage": 4, "hidden_layers": 2, "optimizer": "sgd", "weight_decay": 1.0}
WILD |= {"normalization": "none", "class_balance": False}


@pytest.fixture(autouse=True, scope="module")
def _measured_quickly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet_keras.tuning.budget.MEASURED_SECONDS", 0.0)
        yield


def told(results):
    """What a search says but for what it took."""
    return [
        (each.tier, each.name, dict(each.values), each.score, tuple(each.repeats))
        for each in results
    ]


def test_every_trial_of_both_tiers_is_accounted_for(search):
    tiers = [each.tier for each in search.results]
    assert tiers == ["head"] * 7 + ["fine-tune"] * 3
    assert all(each.status == "COMPLETED" for each in search.results)
    assert {each.values["backbone"] for each in search.results} == {"thin18", "thin34"}
    with (search.run_dir / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 10


def test_the_usual_head_of_each_backbone_comes_first_and_is_repeated(search):
    first = search.results[0]
    assert first.values["backbone"] == "thin18"
    assert (first.values["hidden_layers"], first.values["optimizer"]) == (0, "adamw")
    assert first.values["stage"] == 4
    assert len(first.repeats) == 2
    assert search.results[1].values["backbone"] == "thin34"


def test_the_winner_is_the_best_network_and_the_only_one_tested(search, data):
    networks = [each for each in search.results if each.tier == "fine-tune"]
    assert search.winner.merit == max(each.merit for each in networks if each.repeats)
    metrics = json.loads((search.run_dir / "winner" / "metrics.json").read_text())
    assert metrics["validation"]["accuracy"] == pytest.approx(search.winner.score)
    assert metrics["test"]["accuracy"] == pytest.approx(search.test.accuracy)
    assert evaluate(search.model, data.test).accuracy == pytest.approx(search.test.accuracy)
    others = list((search.run_dir / "networks").glob("run_*/metrics.json"))
    assert len(others) == 2
    assert json.loads(others[0].read_text())["test"] is None


def test_the_head_alone_is_among_the_networks(search):
    best, alone, _ = [each for each in search.results if each.tier == "fine-tune"]
    assert best.values["unfrozen"] == 1
    assert alone.values["unfrozen"] == 0
    assert alone.params is not None
    assert alone.latency_ms > 0


def test_what_a_fine_tuning_without_options_makes_is_among_the_networks(search):
    networks = [each for each in search.results if each.tier == "fine-tune"]
    backbone = networks[0].values["backbone"]
    head = next(each for each in search.results if each.values["backbone"] == backbone)
    # Another one has the best head, if that is not the usual one.
    usual = next(each for each in networks if each.values["head"] == head.name)
    phase = Phase("stage4")
    assert usual.values["unfrozen"] == 1
    assert usual.values["fine_learning_rate"] == phase.peak_learning_rate(16)
    assert usual.values["batch_norm"] == phase.batch_norm
    assert usual.values["layer_decay"] == phase.layer_decay
    assert usual.values["image_size"] == 0


def test_the_best_networks_are_repeated_and_told_apart_by_that(search):
    networks = [each for each in search.results if each.tier == "fine-tune"]
    finalists = [each for each in networks if each.repeats]
    assert [len(each.repeats) for each in finalists] == [2, 2]
    for each in finalists:
        assert each.merit == pytest.approx(sum(each.repeats) / 2)
    page = (search.run_dir / "report.html").read_text()
    assert "in 2 repeats" in page
    # What a repeat trained is not kept.
    assert len(list((search.run_dir / "repeats").glob("trial_*"))) == 4
    assert not list((search.run_dir / "repeats").glob("run_*"))


def test_the_folder_holds_the_report_the_plots_and_the_events(search):
    page = (search.run_dir / "report.html").read_text()
    assert "Luck or merit" in page
    assert list((search.run_dir / "plots").glob("*.png"))
    assert len(list((search.run_dir / "hparams").iterdir())) == 10
    manifest = json.loads((search.run_dir / "manifest.json").read_text())
    assert "best.yaml" in manifest
    assert "winner/model.keras" in manifest
    assert not (search.run_dir / "features").exists()


def test_the_table_has_a_line_for_each_trial_where_no_terminal_is(search, capsys):
    show(search)
    lines = capsys.readouterr().out.splitlines()
    for each in search.results:
        (line,) = [line for line in lines if f"{each.tier} {each.name} " in line]
        assert each.values["optimizer"] in line


def test_a_finetune_with_the_options_of_the_winner_is_its_run_again(search, tmp_path, capfd):
    best = search.run_dir / "best.yaml"
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", "--config", str(best), "--run-dir", str(tmp_path / "again")])
    assert stopped.value.code == 0, capfd.readouterr().err
    for part in ("validation", "test"):
        found = [
            json.loads((folder / "metrics.json").read_text())[part]
            for folder in (search.run_dir / "winner", tmp_path / "again")
        ]
        assert found[0]["loss"] == found[1]["loss"]
    assert yaml.safe_load(best.read_text()) == search.options


def test_a_seed_decides_the_heads(search, tmp_path, weights, data):
    few = HEADS | {"max_trials": 4, "repeats": 0}
    found = tune(data, run_dir=tmp_path / "again", weights=weights, space=STAGES, **few)
    one, other = ([(each.values, each.score) for each in results[:4]]
                  for results in (found.results, search.results))  # fmt: skip
    assert one == other


@pytest.mark.slow
def test_a_seed_decides_trials_and_winner(search, tmp_path, weights, data):
    again = tune(data, run_dir=tmp_path / "again", weights=weights, space=STAGES, **SETTINGS)
    assert told(again.results) == told(search.results)
    assert again.winner.name == search.winner.name
    other = tune(data, run_dir=tmp_path / "other", weights=weights, space=STAGES, seed=1, **HEADS)
    assert told(other.results)[2:] != told(search.results)[2:7]


def test_a_search_that_is_over_is_only_told_again(search, weights, data, photos):
    again = tune(
        data, run_dir=search.run_dir, weights=weights, space=STAGES, resume=True, **SETTINGS
    )
    assert told(again.results) == told(search.results)
    assert again.test.accuracy == search.test.accuracy
    assert len(again.model.get_weights()) == len(search.model.get_weights())
    for one, other in zip(again.model.get_weights(), search.model.get_weights(), strict=True):
        assert (one == other).all()


def test_what_is_named_is_fixed_and_the_rest_is_searched(tmp_path, weights, data):
    named = {"pooling": "max", "stage": [2, 3], "hidden_layers": 1, "learning_rate": 0.003}
    heads = HEADS | {"max_trials": 6}
    found = tune(data, run_dir=tmp_path / "run", weights=weights[0], space=named, **heads)
    values = [each.values for each in found.results]
    assert {each["pooling"] for each in values} == {"max"}
    assert {each["stage"] for each in values} == {2, 3}
    assert {each["learning_rate"] for each in values} == {0.003}
    assert len({each["normalization"] for each in values}) > 1
    assert found.winner.tier == "head"
    assert found.options["epochs"] == 0
    assert max(int(layer.name[5]) for layer in found.model.layers if layer.name[:5] == "stage") < 4


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["hyperband", "bayesian"])
def test_the_other_algorithms_search_heads_too(tmp_path, weights, data, algorithm):
    heads = HEADS | {"max_trials": 10, "epochs": 4, "algorithm": algorithm}
    found = tune(data, run_dir=tmp_path / "run", weights=weights[0], space={"stage": 4}, **heads)
    assert len(found.results) == 10
    assert found.winner.score is not None


def test_a_head_over_the_budget_fails_by_name_and_smaller_ones_are_searched(
    tmp_path, weights, data
):
    named = {"stage": 4, "hidden_layers": [0, 1], "units": [4, 5000]}
    found = tune(
        data, run_dir=tmp_path / "run", weights=weights[0], space=named, max_params=250_000, **HEADS
    )
    failed = [each for each in found.results if each.status == "FAILED"]
    assert failed
    assert all("over the budget" in each.reason for each in failed)
    assert all(each.params <= 250_000 for each in found.results if each.status == "COMPLETED")
    with pytest.raises(TuningError, match="No network is within the budget of 10 parameters"):
        tune(data, run_dir=tmp_path / "none", weights=weights[0], max_params=10, **HEADS)


def test_trials_that_diverge_or_take_too_much_memory_fail_and_never_win(tmp_path, weights, data):
    named = WILD | {"units": [8, 30_000_000], "learning_rate": [0.01, 100.0]}
    heads = HEADS | {"max_trials": 14}
    found = tune(data, run_dir=tmp_path / "run", weights=weights[0], space=named, **heads)
    kinds = {}
    for each in found.results:
        if each.values["units"] > 8:
            kinds.setdefault("memory", []).append(each)
        elif each.values["learning_rate"] > 1:
            kinds.setdefault("diverged", []).append(each)
    assert all("memory ran out" in each.reason for each in kinds["memory"])
    assert all("diverged" in each.reason for each in kinds["diverged"])
    assert found.winner.values["units"] == 8
    assert found.winner.values["learning_rate"] == 0.01


def test_where_all_trials_fail_the_sentence_says_why(tmp_path, weights, data):
    named = WILD | {"units": [8, 9, 10], "learning_rate": 100.0}
    heads = HEADS | {"max_trials": 3}
    with pytest.raises(TuningError, match=r"None of the 3 trials succeeded.*diverged"):
        tune(data, run_dir=tmp_path / "run", weights=weights[0], space=named, **heads)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"objective": "acuracy"}, "`objective` must be one of"),
        ({"space": {"poolin": "avg"}}, "did you mean 'pooling'"),
        ({"space": {"stage": 5}}, "an integer from 1 to 4"),
        ({"space": {"dropout": []}}, "dropout"),
        ({"max_trials": 0}, "`max_trials` must be an integer of at least 1"),
        ({"weights": []}, "at least one backbone"),
        ({"max_latency_ms": -1}, "max_latency_ms"),
        ({"algorithm": "grid"}, "`algorithm` must be one of"),
    ],
)
def test_a_mistake_is_a_sentence_before_anything_is_made(tmp_path, data, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        tune(data, run_dir=tmp_path / "run", **{"weights": None} | wrong)
    assert not (tmp_path / "run").exists()


def test_data_without_a_validation_part_is_refused(tmp_path, photos):
    whole = load_images(photos, image_size=32, validation=0)
    with pytest.raises(ValueError, match="validation part"):
        tune(whole, run_dir=tmp_path / "run", weights=None)


def test_repeats_keep_the_split_of_a_source_that_has_its_own(data):
    assert data.drawn == ("val", "test")
    pictures = np.zeros((20, 32, 32, 3), np.uint8)
    whole = load_images(pictures, labels=[0, 1] * 10, image_size=32, test=0)
    assert whole.drawn == ("val",)
