"""Searches of one process: what they try, and what becomes of every trial."""

import collections
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from resnet_keras.tuning.files import OUTCOME, SEARCH, STARTS, TRIAL, read_results, write_starts
from resnet_keras.tuning.oracles import make_oracle
from tests.tuning_child import Search, oracle, space

ALGORITHMS = ("random", "hyperband", "bayesian")
CHILD = Path(__file__).with_name("tuning_child.py")


def run(folder, *, algorithm="random", max_trials=6, seed=0, first=(), **more):
    """Returns the results of a search, and what it was told of them."""
    told = []
    made = oracle(algorithm=algorithm, max_trials=max_trials, seed=seed, first=first)
    search = Search(made, folder=folder, tier="head", told=told.append, **more)
    search.search()
    search.told = told
    return read_results(folder, "head"), search


def tried(results):
    return [(result.name, dict(result.values), result.score) for result in results]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_seed_makes_the_same_trials(tmp_path, algorithm):
    every = {"algorithm": algorithm, "max_trials": 9, "at_once": 3}
    first, search = run(tmp_path / "a", **every)
    again, _ = run(tmp_path / "b", **every)
    other, _ = run(tmp_path / "c", **every, seed=1)
    assert len(first) == 9
    assert tried(first) == tried(again)
    assert [result.values for result in first] != [result.values for result in other]
    assert [result.name for result in search.told] == [f"{number}" for number in range(9)]
    assert len({json.dumps(dict(result.values)) for result in first}) == 9


def test_what_is_active_has_a_value_and_nothing_else(tmp_path):
    results, _ = run(tmp_path / "a", max_trials=20)
    sizes = {"a": {1, 2, 3}, "b": {10, 20, 30}}
    assert {result.values["kind"] for result in results} == {"a", "b"}
    for result in results:
        assert set(result.values) == {"kind", "size", "rate"}
        assert result.values["size"] in sizes[result.values["kind"]]


def test_hyperband_goes_on_with_the_best_and_ends(tmp_path):
    results, _ = run(tmp_path / "a", algorithm="hyperband", max_trials=30, at_once=4)
    assert len(results) == 30
    by_name = {result.name: result for result in results}
    promoted = [result for result in results if "tuner/trial_id" in result.values]
    assert promoted
    for result in promoted:
        former = by_name[result.values["tuner/trial_id"]]
        assert former.values["tuner/epochs"] == result.values["tuner/initial_epoch"]
        assert former.values["tuner/epochs"] < result.values["tuner/epochs"] <= 9
        assert former.values["rate"] == result.values["rate"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_named_values_come_first(tmp_path, algorithm):
    first = [{"rate": 0.05}, {"kind": "b", "size": 20}, {"rate": 0.05}]
    results, _ = run(tmp_path / "a", algorithm=algorithm, first=first, at_once=2)
    own = [{k: v for k, v in r.values.items() if "/" not in k} for r in results]
    assert own[:2] == [
        {"kind": "a", "size": 1, "rate": 0.05},
        {"kind": "b", "size": 20, "rate": 0.01},
    ]
    assert own[2] != own[0]
    assert len(own) == 6
    assert ("tuner/epochs" in results[0].values) == (algorithm == "hyperband")


@pytest.mark.parametrize(
    ("first", "words"), [({"colour": 1}, "colour"), ({"size": 10}, r"'size' one of \[1, 2, 3\]")]
)
def test_first_values_must_be_possible(first, words):
    with pytest.raises(ValueError, match=f"`first` must .*{words}"):
        oracle(first=[first])


def test_an_unknown_algorithm_is_told():
    with pytest.raises(ValueError, match=r"must be one of .* Received: 'grid'"):
        make_oracle(
            "grid", objective="f1", max_trials=1, max_epochs=1, seed=0, hyperparameters=space()
        )


def test_a_small_space_ends_the_search(tmp_path):
    import keras_tuner

    small = keras_tuner.HyperParameters()
    small.Choice("size", [1, 2])
    small.Choice("rate", [0.1])
    for algorithm in ALGORITHMS:
        made = make_oracle(
            algorithm, objective="accuracy", max_trials=50, max_epochs=9, seed=3,
            hyperparameters=small,
        )  # fmt: skip
        Search(made, folder=tmp_path / algorithm, tier="head", at_once=4).search()
        assert {r.values["size"] for r in read_results(tmp_path / algorithm, "head")} == {1, 2}


FAULTS = {"1": "raise", "2": "nan", "3": "diverge", "4": "raise"}
REASONS = {
    "1": "IndexError: list index out of range",
    "2": "The training diverged: val_accuracy is nan.",
    "3": "The training diverged: The loss is nan in epoch 3.",
    "4": "IndexError: list index out of range",
}


@pytest.mark.parametrize("at_once", [1, 4])
def test_failures_have_reasons_and_stop_nothing(tmp_path, at_once):
    results, search = run(tmp_path / "a", max_trials=8, at_once=at_once, faults=FAULTS)
    good, _ = run(tmp_path / "b", max_trials=8)
    assert {r.name: r.reason for r in results if r.status == "FAILED"} == REASONS
    assert [r.score for r in results if r.score] == [r.score for r in good if r.name not in FAULTS]
    assert [result.name for result in search.told] == [str(number) for number in range(8)]
    # Those behind one that raised are trained again, without it.
    assert at_once == 1 or search.calls[:3] == [
        ["0", "1", "2", "3"],
        ["2", "3"],
        ["4", "5", "6", "7"],
    ]


def test_extras_are_no_metrics(tmp_path):
    class Extras(Search):
        def train(self, trials):
            yield {"val_accuracy": 0.5, "val_f1": 0.4, "seconds": 2, "params": 7, "latency_ms": 3}

    Extras(oracle(max_trials=1), folder=tmp_path / "a", tier="fine-tune").search()
    (result,) = read_results(tmp_path / "a", "fine-tune")
    assert (result.score, result.metrics) == (0.5, {"val_accuracy": 0.5, "val_f1": 0.4})
    assert (result.seconds, result.params, result.latency_ms) == (2.0, 7, 3.0)
    assert result.tier == "fine-tune"


def test_a_misspelt_objective_is_an_error_at_once(tmp_path):
    class Misspelt(Search):
        def train(self, trials):
            yield {"val_acuracy": 0.5}

    search = Misspelt(oracle(), folder=tmp_path / "a", tier="head")
    with pytest.raises(ValueError, match=r"objective 'val_accuracy'. Received: \['val_acuracy'\]"):
        search.search()


def test_nothing_is_printed(tmp_path, capfd):
    run(tmp_path / "a", max_trials=2)
    run(tmp_path / "a", max_trials=3)
    assert capfd.readouterr() == ("", "")


def calls(folder):
    return [line.split()[0] for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_stop_is_no_failure_and_a_resume_goes_on_as_before(tmp_path, algorithm):
    every = {"algorithm": algorithm, "max_trials": 9, "at_once": 3}
    whole, _ = run(tmp_path / "whole", **every)

    class Stopped(Search):
        def train(self, trials):
            for trial, outcome in zip(trials, super().train(trials), strict=True):
                if trial.trial_id == "4":
                    raise KeyboardInterrupt
                yield outcome

    for _ in range(4):
        made = oracle(algorithm=algorithm, max_trials=9)
        search = Stopped(made, folder=tmp_path / "a", tier="head", at_once=3)
        with pytest.raises(KeyboardInterrupt):
            search.search()
    results, _ = run(tmp_path / "a", **every)
    assert tried(results) == tried(whole)
    assert calls(tmp_path / "a").count("0") == 1


def child(folder, **options):
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(folder), json.dumps(options)],
        cwd=CHILD.parent.parent,
        env=os.environ | {"PYTHONPATH": str(CHILD.parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(folder):
    return {path.name for path in folder.glob("trial_*") if (path / OUTCOME).exists()}


@pytest.mark.parametrize(
    "moments", [(3,), pytest.param((1, 2, 4, 5), marks=pytest.mark.slow)], ids=str
)
def test_a_search_that_is_killed_goes_on_and_loses_nothing(tmp_path, moments):
    every = {"max_trials": 8, "at_once": 2, "algorithm": "hyperband"}
    whole, _ = run(tmp_path / "whole", **every)
    folder = tmp_path / "a"
    for moment in moments:
        process = child(folder, **every, seconds=0.2)
        wait_until(lambda moment=moment: len(ended(folder)) >= moment)
        process.kill()
        process.communicate()
    before = {r.name for r in read_results(folder, "head")}
    results, search = run(folder, **every)
    assert tried(results) == tried(whole)
    assert not before & {name for names in search.calls for name in names}
    assert max(collections.Counter(calls(folder)).values()) <= 1 + len(moments)


def test_sigterm_ends_a_search_in_order(tmp_path):
    folder = tmp_path / "a"
    process = child(folder, seconds=60)
    wait_until(lambda: (folder / "calls").exists())
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert json.loads((folder / "trial_0" / STARTS).read_text()) == {"starts": 0}


@pytest.mark.parametrize("deaths", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_trial_that_kills_its_process_fails_alone(tmp_path, deaths):
    folder = tmp_path / "a"
    write_starts(folder / "trial_2", 3 - deaths)
    for _ in range(deaths):
        process = child(folder, max_trials=4, at_once=4, faults={"2": "die"})
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    results, search = run(folder, max_trials=4, at_once=4)
    assert [result.status for result in results] == [*["COMPLETED"] * 2, "FAILED", "COMPLETED"]
    assert results[2].reason.startswith("The process died 3 times while it ran")
    assert [name for names in search.calls for name in names] == ["3"]


def tear(path, how):
    if how == "missing":
        path.unlink()
    else:
        path.write_text({"half": path.read_text()[:40], "other": "[1]", "empty": ""}[how])


@pytest.fixture(params=["random", "hyperband", pytest.param("bayesian", marks=pytest.mark.slow)])
def stopped(tmp_path, request):
    """Returns a folder of a search stopped in its fifth trial, and a function that resumes it."""
    folder = tmp_path / "a"
    every = {"algorithm": request.param, "max_trials": 8, "at_once": 1}
    whole, _ = run(tmp_path / "whole", **every)

    class Stopped(Search):
        def train(self, trials):
            if trials[0].trial_id == "5":
                raise KeyboardInterrupt
            return super().train(trials)

    made = oracle(algorithm=request.param, max_trials=8)
    with pytest.raises(KeyboardInterrupt):
        Stopped(made, folder=folder, tier="head").search()

    def resume(expected=whole):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            results, search = run(folder, **every)
        own = [str(w.message) for w in said if "damaged" in str(w.message)]
        assert tried(results) == tried(expected)
        return own, [name for names in search.calls for name in names]

    resume.folder = folder
    return resume


@pytest.mark.parametrize("how", ["half", "other", "empty", "missing"])
def test_the_file_of_a_search_may_be_torn(stopped, how):
    tear(stopped.folder / SEARCH, how)
    said, names = stopped()
    assert names == ["5", "6", "7"]
    assert len(said) == (how != "missing")
    assert (stopped.folder / f"{SEARCH}.torn").exists() == (how != "missing")


@pytest.mark.parametrize("how", ["half", "other", "empty", "missing"])
def test_the_file_of_a_trial_may_be_torn(stopped, how):
    tear(stopped.folder / "trial_3" / TRIAL, how)
    tear(stopped.folder / "trial_5" / TRIAL, how)
    assert [r.name for r in read_results(stopped.folder, "head")] == ["0", "1", "2", "4"]
    said, names = stopped()
    # What came of the first is in a file of its own.
    assert names == ["5", "6", "7"]
    assert len(said) == 2 * (how != "missing")


def test_a_trial_without_a_whole_file_runs_again(stopped):
    for file in (TRIAL, OUTCOME):
        tear(stopped.folder / "trial_3" / file, "half")
    said, names = stopped()
    assert names == ["3", "5", "6", "7"]
    assert "trial 3 runs again" in said[0]


def test_a_trial_of_which_nothing_is_left_is_drawn_again(tmp_path):
    whole, _ = run(tmp_path / "a", max_trials=8)
    for path in (tmp_path / "a" / "trial_2").iterdir():
        tear(path, "half")
    tear(tmp_path / "a" / SEARCH, "half")
    with pytest.warns(UserWarning, match="damaged"):
        results, search = run(tmp_path / "a", max_trials=8)
    assert tried(results) == tried(whole)
    assert search.calls == [["2"]]


def test_all_files_may_be_torn(tmp_path):
    for algorithm in ALGORITHMS:
        folder = tmp_path / algorithm
        run(folder, algorithm=algorithm, max_trials=8, at_once=2)
        for path in folder.rglob("*.json"):
            tear(path, "half")
        with pytest.warns(UserWarning, match="damaged"):
            results, _ = run(folder, algorithm=algorithm, max_trials=8, at_once=2)
        assert [result.name for result in results] == [str(number) for number in range(8)]


def test_what_needs_too_much_memory_fails_and_the_search_goes_on(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(CHILD), str(tmp_path / "a"),
         json.dumps({"max_trials": 4, "faults": {"1": "memory", "2": "tensors"}})],
        cwd=CHILD.parent.parent,
        env=os.environ
        | {"PYTHONPATH": str(CHILD.parent.parent), "RESNET_KERAS_MEMORY": "1GB"},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    results = read_results(tmp_path / "a", "head")
    assert [r.name for r in results if r.status == "COMPLETED"] == ["0", "3"]
    for result in results[1:3]:
        assert result.reason.startswith("The memory ran out: it needs more than is free")
    assert "MemoryError" in results[1].reason
    assert "ResourceExhaustedError" in results[2].reason
