"""`weights fetch` and `weights verify`, as they are called."""

import hashlib
import json

import pytest

from resnet_keras.cli import main
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import REGISTRY
from resnet_keras.weights.entries import PublishedFile, RegistryEntry
from tests.weights_server import serving, whole

CONTENT = b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Returns a server of the two files of the entry "small", the first of which is missing."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESNET_KERAS_OFFLINE", raising=False)
    with serving() as server:
        server.set("/second.h5", whole(CONTENT))
        names = ("first.h5", "second.h5")
        files = [PublishedFile(f"{server.url}/{name}", "torch", sha256=SHA256) for name in names]
        record = Record(ResNetSpec(18), Recipe(224), name="small", licence="MIT")
        small = RegistryEntry(record, "other", tuple(files), parameters=0)
        monkeypatch.setitem(REGISTRY, "small", small)
        yield server


@pytest.fixture
def call(capsys):
    """Returns a function that runs a command and gives its exit code, output and errors."""

    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            main(["weights", *arguments])
        return left.value.code or 0, *capsys.readouterr()

    return call


def test_fetch_prints_the_path_and_says_which_file_it_is(server, call):
    code, out, err = call("fetch", "small")
    assert code == 0
    with open(out.removesuffix("\n"), "rb") as file:
        assert file.read() == CONTENT
    assert f"small is {server.url}/second.h5" in err
    code, out, _ = call("fetch", "small", "--offline", "--json")
    assert code == 0
    assert json.loads(out)["url"] == f"{server.url}/second.h5"


def test_fetch_offline_leaves_the_network_alone(server, call):
    code, out, err = call("fetch", "small", "--offline")
    assert code == 4
    assert not out
    assert err.count("\n") == 1
    assert "the network is not to be used" in err
    assert not server.requests


def test_an_unknown_name_is_answered_with_a_near_one(server, call):
    code, _, err = call("fetch", "smal")
    assert code == 4
    assert "Did you mean 'small'?" in err


def test_verify_tells_good_altered_and_missing_files_apart(server, call):
    path = call("fetch", "small")[1].strip()
    code, out, _ = call("verify", "small", "--json")
    assert code == 0
    assert [row["state"] for row in json.loads(out)] == ["missing", "ok"]
    with open(path, "r+b") as file:
        file.write(b"\x88")
    code, out, _ = call("verify", "small")
    assert code == 4
    altered = next(line for line in out.splitlines() if path in line)
    assert altered.startswith("small  altered")
    assert f"instead of {SHA256}" in altered
    with open(path, "rb") as file:
        assert file.read() != CONTENT


def test_verify_without_names_shows_what_is_there(server, call):
    path = call("fetch", "small")[1].strip()
    code, out, _ = call("verify", "--json")
    rows = [row for row in json.loads(out) if row["name"] != "open_nsfw"]
    assert code == 0
    assert rows == [{"name": "small", "file": path, "state": "ok", "fault": ""}]
