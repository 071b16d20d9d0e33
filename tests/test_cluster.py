"""TF_CONFIG: what it says of a cluster, and a sentence for each way to get it wrong."""

import json

import pytest

from resnet_keras.distribution.cluster import Cluster, split_address
from resnet_keras.errors import WorkersError

A, B, C = "10.0.0.1:2222", "worker-1.pods:2222", "[fd00::3]:2222"


def config(cluster, kind="worker", index=0, **more):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}, **more})


@pytest.fixture
def read(monkeypatch):
    """Returns a function from the text of TF_CONFIG to a cluster."""

    def from_text(text):
        monkeypatch.setenv("TF_CONFIG", text)
        return Cluster.from_environment()

    return from_text


def test_without_tf_config_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert Cluster.from_environment() is None


@pytest.mark.parametrize(
    "text", ["", " \n", "{}", config({"worker": [A]}), config({"chief": [A]}, "chief")]
)
def test_a_process_without_others_is_alone(read, text):
    assert read(text) is None


@pytest.mark.parametrize(
    ("text", "addresses", "index"),
    [
        (config({"worker": [A, B]}), (A, B), 0),
        (config({"worker": [A, B, C]}, index="2"), (A, B, C), 2),
        (config({"chief": [A], "worker": [B, C]}, "chief"), (A, B, C), 0),
        (config({"chief": [A], "worker": [B, C]}, "worker", 1), (A, B, C), 2),
        (config({"worker": [B], "chief": [A], "ps": []}, "worker"), (A, B), 1),
        (config({"chief": [A], "worker": [B]}, "worker", environment="cloud", job={}), (A, B), 1),
    ],
)
def test_the_chief_comes_first_then_the_workers(read, text, addresses, index):
    cluster = read(text)
    assert (cluster.addresses, cluster.index) == (addresses, index)
    assert cluster.count == len(addresses)
    assert cluster.is_chief == (index == 0)


def test_tensorflow_reads_the_same_tasks(read):
    """The index is that of TensorFlow, whose reading of TF_CONFIG is the reference."""
    from tensorflow.python.distribute import multi_worker_util

    for kind, index in (("chief", 0), ("worker", 0), ("worker", 1)):
        tasks = {"chief": [A], "worker": [B, C]}
        place = multi_worker_util.id_in_cluster(tasks, kind, index)
        assert read(config(tasks, kind, index)).index == place


def test_what_is_written_is_read_again(read):
    cluster = Cluster((A, B, C), 2)
    assert read(cluster.to_tf_config()) == cluster


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{cluster}", "must be a JSON object such as .*, but it is '{cluster}'"),
        ("[1]", r"must be a JSON object .*'\[1\]'"),
        ("[" * 5000, r"must be a JSON object .*'\[{200}\.\.\.'"),
        (json.dumps({"task": {"type": "worker", "index": 0}}), 'must have a "cluster".* null'),
        (config({"worker": []}), 'must have a "cluster"'),
        (config({"worker": {"0": A}}), 'must have a list of addresses for "worker"'),
        (json.dumps({"cluster": {"worker": [A, B]}}), 'must have a "task".* null'),
        (json.dumps({"cluster": {"worker": [A, B]}, "task": {"index": 0}}), 'must have a "task"'),
        (config({"worker": [A, B], "ps": [C]}), 'lists tasks of the type "ps"'),
        (config({"master": [A], "worker": [B]}), 'lists tasks of the type "master"'),
        (config({"worker": [A, B], "evaluator": [C]}), 'lists tasks of the type "evaluator"'),
        (config({"worker": [A, B]}, "evaluator"), 'it calls it "evaluator"'),
        (config({"worker": [A, B]}, ["worker"]), r'it calls it \["worker"\]'),
        (config({"worker": [A, B]}, "chief"), 'calls this process chief 0, .* lists no chief'),
        (config({"worker": [A, B]}, index=2), "must be from 0 to 1, but it is 2"),
        (config({"worker": [A, B]}, index=-1), "must be from 0 to 1, but it is -1"),
        (config({"worker": [A, B]}, index="one"), 'must be from 0 to 1, but it is "one"'),
        (config({"worker": [A, B]}, index=True), "must be from 0 to 1, but it is true"),
        (config({"worker": [A, B]}, index=None), "must be from 0 to 1, but it is null"),
        (config({"worker": [A, "host"]}), 'with a port from 1 to 65535, but it has "host"'),
        (config({"worker": [A, "host:0"]}), 'it has "host:0"'),
        (config({"worker": [A, "host:65536"]}), 'it has "host:65536"'),
        (config({"worker": [A, 2222]}), "it has 2222"),
        (config({"worker": [A, "fd00::3:2222"]}), 'it has "fd00::3:2222"'),
        (config({"worker": [A, "grpc://host:2222"]}), "grpc"),
        (config({"worker": [A, B, A]}), f"but {A} is there twice"),
        (config({"chief": [B], "worker": [A, B.upper()]}), "is there twice"),
        (config({"chief": [A, B], "worker": [C]}), "must have one chief at most"),
    ],
)  # fmt: skip
def test_a_wrong_tf_config_ends_in_one_sentence(read, text, words):
    with pytest.raises(WorkersError, match=words) as caught:
        read(text)
    sentence = str(caught.value)
    assert sentence.startswith("TF_CONFIG ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 500


@pytest.mark.parametrize(
    ("address", "parts"),
    [(A, ("10.0.0.1", 2222)), (B, ("worker-1.pods", 2222)), (C, ("fd00::3", 2222))],
)
def test_an_address_is_host_and_port(address, parts):
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", ":1", "a:", "a:+1", "a:\u0661", "[]:1", "[a]:1", "a b:1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="Received: address="):
        split_address(address)
