"""The cache of weights: without a network, on bad disks, with several and with dying processes."""

import contextlib
import logging
import os
import pty
import random
import signal
import time

import pytest

from resnet_keras.weights.downloads import progress, store
from resnet_keras.weights.entries import PublishedFile
from resnet_keras.weights.fetch import fetch
from tests.weights_children import (
    Child,
    fetch_limited,
    fetch_on_terminal,
    fetch_text,
    fetch_under,
    fetch_until_interrupted,
    fetch_without_lock,
    fetch_without_network,
    timed_refusal,
)
from tests.weights_server import (
    CONTENT,
    OTHER,
    PATH,
    SHA256,
    assert_recovers,
    cut,
    held,
    is_clean,
    refusal,
    serving,
    status,
    whole,
)


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_offline_and_not_there_says_where_to_put_it(cache, server, file, monkeypatch, way):
    if way == "variable":
        monkeypatch.setenv("RESNET_KERAS_OFFLINE", "1")
    message = refusal(file, **({"offline": True} if way == "argument" else {}))
    place = cache / f"127.0.0.1_{server.server_port}" / "models" / "model.safetensors"
    assert file.url in message
    assert str(place) in message
    assert not server.requests
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch(file, offline=True) == place


def test_a_refused_connection_is_told_at_once(file, server):
    with serving() as gone:
        url = gone.url
    message, seconds = timed_refusal(PublishedFile(f"{url}/model.safetensors", "torch"))
    assert "Connection refused" in message
    assert "could not be reached over the network" in message
    assert seconds < 1


def test_a_server_that_cannot_encrypt_is_not_asked_again(server):
    url = f"{server.url.replace('http:', 'https:')}/model.safetensors"
    message, seconds = timed_refusal(PublishedFile(url, "torch"))
    assert f"{url} could not be fetched" in message
    assert "SSL" in message
    assert seconds < 1


def quickest(function, file):
    """Returns the quickest of three answers of fresh processes: other processes take time too."""
    results = [Child(function, file).result() for _ in range(3)]
    if any(isinstance(result, str) for result in results):
        pytest.skip(f"the system lends no networks: {results}")
    return min(results, key=lambda result: result[1])


def test_without_a_network_the_answer_comes_within_a_second():
    file = PublishedFile("https://example.invalid/models/a.safetensors", "torch")
    message, seconds = quickest(fetch_without_network, file)
    assert "https://example.invalid/models/a.safetensors could not be reached" in message
    assert "by hand to" in message
    assert seconds < 1


def test_a_fresh_process_says_offline_within_a_second(cache, monkeypatch):
    monkeypatch.setenv("RESNET_KERAS_OFFLINE", "1")
    file = PublishedFile("hf://timm/resnet18.a1_in1k/model.safetensors", "torch")
    message, seconds = quickest(timed_refusal, file)
    assert "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors" in message
    assert str(cache / "hf" / "timm" / "resnet18.a1_in1k" / "model.safetensors") in message
    assert seconds < 1


def test_a_flipped_byte_is_noticed_and_the_file_fetched_again(cache, server, file, caplog):
    path = fetch(file)
    before = path.stat()
    with path.open("r+b") as opened:
        opened.seek(150_000)
        byte = opened.read(1)
        opened.seek(150_000)
        opened.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    message = refusal(file, offline=True)
    assert f"instead of {SHA256}" in message
    assert str(path) in message
    server.set(PATH, status(404))
    refusal(file)
    assert not path.exists()
    assert_recovers(cache, server, file)
    assert not list(cache.rglob("*.altered"))


def test_a_wrong_file_put_by_hand_is_set_aside_until_the_right_one_is_there(cache, server, file):
    path = fetch(file)
    path.write_bytes(OTHER)
    server.set(PATH, status(404))
    refusal(file)
    assert path.with_name(f"{path.name}.altered").read_bytes() == OTHER
    assert_recovers(cache, server, file)


def test_what_nobody_published_a_digest_of_may_not_change_later(cache, server, file):
    file = PublishedFile(file.url, "torch")
    fetch(file).unlink()
    server.set(PATH, whole(OTHER))
    message = refusal(file)
    assert f"instead of {SHA256}" in message
    assert "model.safetensors.json" in message
    for receipt in cache.rglob("*.json"):
        receipt.unlink()
    assert fetch(file).read_bytes() == OTHER


def test_a_damaged_receipt_is_no_obstacle(cache, server, file):
    path = fetch(file)
    path.with_name(f"{path.name}.json").write_bytes(b"\0{")
    assert fetch(file, offline=True) == path
    path.unlink()
    assert_recovers(cache, server, file)


def test_a_cache_below_a_file_is_refused_and_no_other_place_taken(
    server, file, monkeypatch, tmp_path
):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "file" / "cache"))
    message = refusal(file)
    assert str(tmp_path / "file" / "cache") in message
    assert "RESNET_KERAS_CACHE" in message
    assert not server.requests


@pytest.mark.parametrize(
    ("options", "length", "words"),
    [
        ("ro", True, "cannot be written"),
        ("size=200k", True, "MB of free space"),
        ("size=200k", False, "No space left on device"),
    ],
    ids=["read-only", "small", "small, length unknown"],
)
def test_a_read_only_or_full_cache_is_named(cache, server, file, options, length, words):
    cache.mkdir()
    server.set(PATH, cut(CONTENT, None, length=length))
    result = Child(fetch_under, (cache, options), file).result()
    if isinstance(result, str):
        pytest.skip(f"the system lends no mounts: {result}")
    message, left = result
    assert message.startswith("WeightsError: ")
    assert words in message
    assert str(cache) in message
    assert "RESNET_KERAS_CACHE" in message
    assert all(name.endswith(".lock") for name in left)
    assert_recovers(cache, server, file)


def test_a_write_that_fails_leaves_nothing(cache, server, file):
    message = Child(fetch_limited, file).result()
    assert "File too large" in message
    assert "RESNET_KERAS_CACHE" in message
    assert not [path for path in cache.rglob("*") if ".tmp" in path.name]
    assert_recovers(cache, server, file)


def test_killed_at_any_moment_a_download_leaves_nothing_bad(cache, server, file):
    server.set(PATH, whole(CONTENT, pieces=20, pause=0.01))
    chance = random.Random(0)
    for _ in range(12):
        asked = len(server.requests)
        child = Child(fetch_text, file)
        server.wait_for(asked + 1)
        time.sleep(chance.uniform(0, 0.25))
        child.process.kill()
        child.process.join()
        path = cache / f"127.0.0.1_{server.server_port}" / "models" / "model.safetensors"
        if path.exists():
            assert path.read_bytes() == CONTENT
            path.unlink()
    server.set(PATH, whole(CONTENT))
    assert fetch(file).read_bytes() == CONTENT
    assert not [path for path in cache.rglob("*") if ".tmp" in path.name]


def test_an_interrupt_leaves_the_cache_clean(cache, server, file):
    server.set(PATH, held(CONTENT, requests=2))
    child = Child(fetch_until_interrupted, file)
    server.wait_for(1)
    time.sleep(0.1)
    os.kill(child.process.pid, signal.SIGINT)
    assert child.result() == "interrupted"
    assert not list(cache.rglob("*.safetensors"))
    assert_recovers(cache, server, file)


def test_two_processes_download_once(cache, server, file):
    server.set(PATH, whole(CONTENT, pieces=20, pause=0.02))
    children = [Child(fetch_text, file) for _ in range(2)]
    assert {child.result() for child in children} == {fetch_text(file)}
    assert len(server.requests) == 1
    assert is_clean(cache)


def test_two_processes_that_see_no_lock_both_succeed(cache, server, file, monkeypatch):
    monkeypatch.setenv("RESNET_KERAS_TIMEOUT", "30")
    # The second one takes the half file of the first for a leftover.
    server.set(PATH, held(CONTENT, requests=2), whole(CONTENT))
    first = Child(fetch_without_lock, file)
    server.wait_for(1)
    second = Child(fetch_without_lock, file)
    assert first.result() == second.result() == fetch_text(file)
    assert len(server.requests) == 3
    assert is_clean(cache)


def test_the_wait_for_another_process_ends_and_says_who_waits(cache, server, file, monkeypatch):
    monkeypatch.setenv("RESNET_KERAS_TIMEOUT", "0.05")
    path = fetch(file)
    path.unlink()
    with store.locked(path, wait=1):
        message = Child(fetch_text, file).result()
    assert "waited 1 s for another process that fetches" in message
    assert str(path) in message
    assert_recovers(cache, server, file)


def test_a_terminal_shows_how_far_a_long_download_is(server, file):
    server.set(PATH, whole(CONTENT, pieces=10, pause=0.1))
    ours, theirs = pty.openpty()
    child = Child(fetch_on_terminal, os.ttyname(theirs), file)
    assert child.result().endswith("model.safetensors")
    os.close(theirs)
    shown = b""
    # Reading past the end of a terminal that nobody has open is an error.
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert b"model.safetensors" in shown
    assert b"kB" in shown


def test_without_a_terminal_a_line_is_logged(server, file, caplog, capfd, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    server.set(PATH, whole(CONTENT, pieces=5, pause=0.1))
    with caplog.at_level(logging.INFO, logger="resnet_keras"):
        path = fetch(file)
    assert caplog.messages == [f"Downloading {file.url} to {path}."]
    assert capfd.readouterr().err == ""
