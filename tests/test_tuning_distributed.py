"""Searches of several processes: a chief and its workers, which may die at any moment."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_keras.distribution.launch import search_commands, supervise_search
from resnet_keras.distribution.processes import Command
from resnet_keras.distribution.rendezvous import open_port
from resnet_keras.errors import WorkersError
from resnet_keras.tuning.chief import ADDRESS, NAME, PORT, Role
from resnet_keras.tuning.files import read_results
from tests.tuning_child import Search, oracle

CHILD = Path(__file__).with_name("tuning_child.py")
ROOT = CHILD.parent.parent


def free_port():
    with open_port(0) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """Returns a function that starts a process of a search by its name."""
    port = free_port()
    started = []

    def start(name, **options):
        variables = {NAME: name, ADDRESS: "127.0.0.1", PORT: str(port), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, str(CHILD), str(tmp_path / "a"), json.dumps(options)],
            cwd=ROOT,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    start.folder = tmp_path / "a"
    start.port = port
    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_until(holds, seconds=90):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def calls(folder):
    """Returns the trials that began, and the processes they began in."""
    if not (folder / "calls").exists():
        return []
    return [line.split()[:2] for line in (folder / "calls").read_text().splitlines()]


def processes(folder):
    return {process for _, process in calls(folder)}


def accounted(folder, count):
    results = read_results(folder, "head")
    width = len(str(count))
    assert [result.name for result in results] == [f"{n:0{width}d}" for n in range(count)]
    return results


def last_line(process):
    return process.communicate(timeout=60)[1].strip().splitlines()[-1]


def test_a_worker_that_is_killed_loses_no_trial(cluster, tmp_path):
    options = {"max_trials": 14, "seconds": 0.5, "at_once": 2, "faults": {"03": "raise"}}
    chief = cluster("chief", **options)
    workers = [cluster(f"worker-{number}", **options) for number in range(3)]
    wait_until(lambda: str(workers[1].pid) in processes(cluster.folder))
    workers[1].kill()
    out, err = chief.communicate(timeout=90)
    assert chief.returncode == 0, err
    results = accounted(cluster.folder, 14)
    # What a worker trained is what the oracle drew, to the last bit.
    alone = Search(oracle(max_trials=14), folder=tmp_path / "alone", tier="head")
    alone.search()
    expected = read_results(tmp_path / "alone", "head")
    assert [r.values for r in results] == [r.values for r in expected]
    assert [(r.name, r.reason) for r in results if r.status == "FAILED"] == [
        ("03", "IndexError: list index out of range")
    ]
    own = [result.score for result in results if result.score]
    assert own == [result.score for result in expected if result.name != "03"]
    assert sorted(line.split()[0] for line in out.splitlines()) == [r.name for r in results]
    assert [workers[0].wait(30), workers[2].wait(30)] == [0, 0]


def test_workers_do_not_outlive_the_chief_and_its_search_goes_on(cluster):
    options = {"max_trials": 3, "seconds": 60}
    chief = cluster("chief", **options)
    workers = [cluster(f"worker-{number}", **options) for number in range(2)]
    wait_until(lambda: len(processes(cluster.folder)) == 2)
    start = time.monotonic()
    chief.kill()
    for worker in workers:
        assert "is gone: it was silent for 3 seconds" in last_line(worker)
        assert worker.returncode == 1
    assert time.monotonic() - start < 30  # long before the trials would end
    Search(oracle(max_trials=3), folder=cluster.folder, tier="head").search()
    accounted(cluster.folder, 3)


@pytest.mark.slow
def test_a_worker_that_starts_again_gets_its_trial_back(cluster):
    options = {"max_trials": 2, "lost_seconds": 40}
    chief = cluster("chief", **options)
    first = cluster("worker-1", **options, seconds=60)
    wait_until(lambda: calls(cluster.folder))
    first.kill()
    second = cluster("worker-1", **options)
    assert (chief.wait(60), second.wait(30)) == (0, 0)
    assert [name for name, _ in calls(cluster.folder)] == ["0", "0", "1"]
    late = cluster("worker-2", **options | {"lost_seconds": 1})
    assert late.wait(60) == 0
    assert cluster("chief", **options).wait(60) == 0


@pytest.fixture
def variables(monkeypatch):
    def put(**values):
        for name in (NAME, ADDRESS, PORT):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def test_the_role_follows_from_the_environment(variables):
    variables()
    alone = Role.from_environment()
    assert not alone.is_chief
    assert not alone.is_worker
    variables(**{NAME: "chief", ADDRESS: "10.0.0.1", PORT: "80"})
    assert Role.from_environment().is_chief
    variables(**{NAME: "w1", ADDRESS: "10.0.0.1", PORT: "80"})
    assert Role.from_environment() == Role("w1", "10.0.0.1:80")
    assert Role.from_environment().is_worker


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({NAME: "chief"}, f"{ADDRESS} is not set"),
        ({ADDRESS: "h", PORT: "80"}, f"{NAME} is not set"),
        ({NAME: "chief", ADDRESS: "h"}, f"{PORT} is not set"),
        ({NAME: "", ADDRESS: "h", PORT: "80"}, f"{NAME} is not set"),
        ({NAME: "chief", ADDRESS: "h", PORT: "http"}, f"Received: {PORT}='http'"),
        ({NAME: "chief", ADDRESS: "h", PORT: "70000"}, f"Received: {PORT}='70000'"),
    ],
)
def test_wrong_variables_are_told(variables, tmp_path, values, words):
    variables(**values)
    with pytest.raises(WorkersError, match=words):
        Search(oracle(), folder=tmp_path / "a", tier="head")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_told(variables, tmp_path):
    with open_port(0) as listener:
        port = str(listener.getsockname()[1])
        variables(**{NAME: "chief", ADDRESS: "127.0.0.1", PORT: port})
        search = Search(oracle(), folder=tmp_path / "a", tier="head")
        with pytest.raises(WorkersError, match=rf"cannot listen at 127\.0\.0\.1:{port}"):
            search.search()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("worker-1", "never answered within 1 seconds"),
        ("chief", "No worker of the search was there for 1 seconds"),
    ],
)
def test_who_waits_in_vain_says_so(variables, tmp_path, name, words):
    variables(**{NAME: name, ADDRESS: "127.0.0.1", PORT: str(free_port())})
    search = Search(oracle(), folder=tmp_path / "a", tier="head", join_seconds=1)
    with pytest.raises(WorkersError, match=words):
        search.search()


@pytest.fixture
def launched(tmp_path, capfd):
    """Returns a function that runs the child as a chief and workers of a launcher."""

    def run(workers, max_restarts, **options):
        program = [sys.executable, str(CHILD), str(tmp_path / "a"), json.dumps(options)]
        commands = [
            Command(program, {**os.environ, **made.environment, "PYTHONPATH": str(ROOT)}, made.name)
            for made in search_commands(["tune"], workers=workers)
        ]
        said = []
        code = supervise_search(
            commands, log_dir=tmp_path / "logs", max_restarts=max_restarts, say=said.append
        )
        return code, said, capfd.readouterr().out

    run.folder, run.logs = tmp_path / "a", tmp_path / "logs"
    return run


@pytest.mark.slow
def test_a_launched_worker_that_dies_starts_again(launched):
    code, said, shown = launched(
        2, 5, max_trials=6, seconds=0.1, faults={"2": "die"}, lost_seconds=30
    )
    assert code == 0
    results = accounted(launched.folder, 6)
    assert [r.name for r in results if r.status == "FAILED"] == ["2"]
    assert "died 3 times" in results[2].reason
    assert len(said) == 3
    assert all(" was killed by signal 9 (Killed); restart " in sentence for sentence in said)
    assert sorted(line.split()[0] for line in shown.splitlines()) == [str(n) for n in range(6)]
    assert {path.name for path in launched.logs.iterdir()} == {
        "chief.log", "worker-1.log", "worker-2.log",
    }  # fmt: skip


def test_a_launch_without_workers_left_ends(launched):
    code, said, _ = launched(1, 0, max_trials=3, faults={"1": "die"})
    assert code == 137
    assert "worker 1 was killed by signal 9 (Killed)" in said[-1]
    assert said[-1].startswith("error: ")
    assert [r.name for r in read_results(launched.folder, "head")] == ["0"]
