"""The files for clusters: their commands, their storage, and the TF_CONFIG that comes of them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from resnet_keras.cli.main import app
from resnet_keras.distribution.cluster import Cluster

FOLDER = Path(__file__).parents[1] / "recipes" / "cluster"
SCRIPT = FOLDER / "slurm.sh"
# Longest pause that Kubernetes makes before it starts a container again.
BACKOFF_SECONDS = 300


def options_of(command):
    """Returns what the command line understands of a command."""
    program, name, *rest = command
    assert program == "resnet-keras"
    group = typer.main.get_command(app)
    root = group.make_context("resnet-keras", [name, *rest])
    return group.get_command(root, name).make_context(name, rest, parent=root).params


def check_options(options, shared):
    assert Path(options["source"]).is_relative_to(shared)
    assert options["run_dir"].is_relative_to(shared)
    assert options["resume"]
    assert options["join_seconds"] > BACKOFF_SECONDS


@pytest.fixture
def place(monkeypatch):
    """Returns a function from TF_CONFIG to the number of a process and the addresses of all."""

    def read(config):
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        cluster = Cluster.from_environment()
        return cluster.index, cluster.addresses

    return read


def test_the_pods_of_kubernetes_train_on_shared_storage():
    job = yaml.safe_load((FOLDER / "tfjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    assert list(job["spec"]["tfReplicaSpecs"]) == ["Worker"]
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker["restartPolicy"] == "OnFailure"
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "tensorflow"  # else the operator refuses the job
    (mount,) = container["volumeMounts"]
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    check_options(options_of(container["command"]), mount["mountPath"])


def test_the_pools_of_vertex_ai_train_on_shared_storage():
    job = yaml.safe_load((FOLDER / "vertex.yaml").read_text())
    chief, workers = job["workerPoolSpecs"]
    assert chief["replicaCount"] == 1
    # All processes must have the same pictures and settings.
    assert {**workers, "replicaCount": 1} == chief
    container, (mount,) = chief["containerSpec"], chief["nfsMounts"]
    options = options_of(container["command"] + container["args"])
    check_options(options, Path("/mnt/nfs") / mount["mountPoint"])
    assert job["scheduling"]["restartJobOnWorkerRestart"]


def test_the_operator_of_kubeflow_names_pods(place):
    """As `genTFConfigJSONStr` of the training operator writes it for the job in the file."""
    job = yaml.safe_load((FOLDER / "tfjob.yaml").read_text())
    name, worker = job["metadata"]["name"], job["spec"]["tfReplicaSpecs"]["Worker"]
    pods = [f"{name}-worker-{i}.default.svc:2222" for i in range(worker["replicas"])]
    for index in range(len(pods)):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": pods}, "task": task, "environment": "cloud"}
        assert place(config) == (index, tuple(pods))


def test_vertex_ai_names_a_chief(place):
    """As its jobs log it; `trial`, `cloud` and `job` are there for other programs."""
    chief = "cmle-training-workerpool0-d604929a6a-0:2222"
    workers = [f"cmle-training-workerpool1-d604929a6a-{index}:2222" for index in range(2)]
    cluster = {"chief": [chief], "worker": workers}
    for kind, index, number in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
        task = {"type": kind, "index": index, "trial": "", "cloud": "d604929a6a"}
        config = {"cluster": cluster, "environment": "cloud", "task": task, "job": "{}"}
        assert place(config) == (number, (chief, *workers))


STAND_INS = {
    "scontrol": """
        if [ "$1 $2" = "show hostnames" ] && [ "$3" = "node[1-2]" ]; then printf 'node1\\nnode2\\n'
        else echo "$@" >> calls; fi""",
    # As srun does, it gives each task its number and ends with the highest exit code.
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        "$@" & first=$!; SLURM_NODEID=1 "$@" & second=$!
        wait $first; a=$?; wait $second; b=$?; exit $((a > b ? a : b))""",
    "resnet-keras": """
        echo "$TF_CONFIG" > config-$SLURM_NODEID
        printf '%s\\n' "$@" > arguments-$SLURM_NODEID
        exit $([ $SLURM_NODEID = 1 ] && echo $CODE || echo 0)""",
}


@pytest.fixture
def sbatch(tmp_path):
    """Returns a function that runs the script with arguments; tasks leave files in `tmp_path`."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash{text}\n")
        (tools / name).chmod(0o755)

    def run(*arguments, code=0, restarts=0):
        slurm = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NODEID": "0"}
        environment = os.environ | slurm | {"PATH": f"{tools}:{os.environ['PATH']}"}
        environment |= {"SLURM_RESTART_COUNT": str(restarts), "CODE": str(code)}
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, check=False).returncode

    return run


def test_slurm_starts_one_worker_a_node(sbatch, tmp_path, place):
    assert sbatch("photos of mine/", "--run-dir", "/shared/run", "--epochs", "3") == 0
    addresses = ("node1:23456", "node2:23456")
    for index in range(2):
        config = json.loads((tmp_path / f"config-{index}").read_text())
        assert place(config) == (index, addresses)
        arguments = (tmp_path / f"arguments-{index}").read_text().splitlines()
        options = options_of(["resnet-keras", *arguments])
        assert (options["source"], options["epochs"]) == ("photos of mine/", 3)
        assert options["resume"]
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(143, 0, True), (137, 3, True), (8, 0, True), (3, 0, False), (6, 0, False), (143, 20, False)],
)
def test_slurm_queues_again_after_a_signal_or_a_lost_worker(
    sbatch, tmp_path, code, restarts, again
):
    assert sbatch("photos/", code=code, restarts=restarts) == code
    calls = tmp_path / "calls"
    assert (calls.read_text() if calls.exists() else "") == ("requeue 123456\n" if again else "")


def test_slurm_reads_all_settings_of_the_script():
    """It stops at the first command."""
    lines = SCRIPT.read_text().splitlines()
    settings = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    commands = [number for number, line in enumerate(lines) if line and line[0] != "#"]
    assert settings
    assert max(settings) < min(commands)
