"""Downloads from servers that answer well or badly: the published file, or a sentence and nothing.

After every failure the cache must hold no file that is not the published one, and the next call
must succeed once the server is well again.
"""

import dataclasses
import gzip
import hashlib
import socket
import struct
import sys
import time

import pytest

from resnet_keras.weights.entries import PublishedFile
from resnet_keras.weights.fetch import cache_folder, fetch
from tests.weights_server import (
    CONTENT,
    MD5,
    OTHER,
    PATH,
    SHA256,
    assert_recovers,
    cut,
    hang,
    is_clean,
    page,
    ranged,
    redirect,
    refusal,
    status,
    whole,
)


def test_a_file_is_fetched_once_and_lies_where_its_address_says(cache, server, file):
    path = fetch(file)
    assert path.read_bytes() == CONTENT
    assert path == cache / f"127.0.0.1_{server.server_port}" / "models" / "model.safetensors"
    assert fetch(file) == path
    assert len(server.requests) == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    assert {found.name for found in path.parent.iterdir()} <= {
        path.name, f"{path.name}.json", f".{path.name}.lock",
    }  # fmt: skip


@pytest.mark.parametrize(
    "known",
    [{"sha256": SHA256[:8]}, {"sha256": SHA256.upper()}, {"md5": MD5}, {"md5": MD5[:8]}, {}],
    ids=["prefix", "capitals", "md5", "md5 prefix", "nothing"],
)
def test_whatever_was_published_about_a_file_suffices(server, file, known):
    file = PublishedFile(file.url, "torch", **known)
    assert fetch(file).read_bytes() == CONTENT
    assert fetch(file, offline=True).read_bytes() == CONTENT


def test_a_cached_file_needs_no_network(server, file):
    path = fetch(file)
    server.set(PATH, status(500))
    assert fetch(file, offline=True) == path


def test_the_cache_lies_in_the_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("RESNET_KERAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "resnet_keras"


def test_a_body_that_ends_early_is_resumed_where_it_ended(cache, server, file):
    server.set(PATH, ranged(CONTENT, most=200_000), ranged(CONTENT))
    assert fetch(file).read_bytes() == CONTENT
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges[0] is None
    assert 0 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= 200_000
    assert is_clean(cache)


def test_a_known_size_tells_that_a_body_without_a_length_ended_early(server, file):
    server.set(PATH, cut(CONTENT, 200_000, length=False), ranged(CONTENT))
    assert fetch(dataclasses.replace(file, size=len(CONTENT))).read_bytes() == CONTENT
    assert server.requests[1][1]["Range"] == "bytes=200000-"


def test_a_server_without_ranges_is_asked_for_the_whole_again(cache, server, file):
    server.set(PATH, cut(CONTENT, 200_000), whole(CONTENT))
    assert fetch(file).read_bytes() == CONTENT
    assert server.requests[1][1]["Range"].startswith("bytes=")


def test_without_a_digest_only_the_same_version_is_resumed(server, file):
    file = PublishedFile(file.url, "torch")
    server.set(PATH, ranged(OTHER, most=200_000, etag='"1"'), whole(CONTENT, etag='"2"'))
    assert fetch(file).read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == '"1"'


def test_what_cannot_be_told_from_another_version_is_not_resumed(server, file):
    server.set(PATH, ranged(OTHER, most=200_000), ranged(CONTENT))
    assert fetch(PublishedFile(file.url, "torch")).read_bytes() == CONTENT
    assert "Range" not in server.requests[1][1]


def test_a_range_that_begins_elsewhere_is_not_appended(server, file):
    def shifted(handler):
        handler.begin(206, {"Content-Range": "bytes 7-9/10", "Content-Length": 3})
        handler.wfile.write(CONTENT[7:10])

    server.set(PATH, cut(CONTENT, 200_000), shifted, status(416), whole(CONTENT))
    assert fetch(file).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "known", [{"sha256": SHA256}, {"md5": MD5}, {"size": len(CONTENT)}, {}], ids=str
)
@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
def test_a_truncated_file_is_refused(cache, server, file, known, length):
    file = PublishedFile(file.url, "torch", **known)
    server.set(PATH, cut(CONTENT, 200_000, length=length))
    assert file.url in refusal(file)
    assert_recovers(cache, server, file)


def test_a_server_that_hangs_is_left_after_the_timeout(cache, server, file):
    server.set(PATH, hang)
    assert "timed out" in refusal(file)
    assert len(server.requests) == 1
    assert_recovers(cache, server, file)


def test_a_server_that_stalls_in_the_middle_is_resumed(server, file):
    def stalling(handler):
        handler.begin(200, {"Content-Length": len(CONTENT)})
        handler.wfile.write(CONTENT[:150_000])
        hang(handler)

    server.set(PATH, stalling, ranged(CONTENT))
    assert fetch(file).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("code", "words"),
    [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "moved or removed"), (418, "no file")],
)
def test_a_refusal_is_told_at_once_with_its_hint(cache, server, file, code, words):
    server.set(PATH, status(code))
    message = refusal(file)
    assert f"{file.url} answered {code}" in message
    assert words in message
    assert len(server.requests) == 1
    assert_recovers(cache, server, file)


def _reset(handler):
    handler.begin(200, {"Content-Length": len(CONTENT)})
    handler.wfile.write(CONTENT[:150_000])
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def _babble(handler):
    handler.wfile.write(b"what do you want\r\nfrom me\r\n\r\n")


def _encode(handler):
    packed = gzip.compress(CONTENT)
    whole(packed[:-9], content_encoding="gzip")(handler)


@pytest.mark.parametrize("answer", [_reset, _babble, _encode, status(200), status(204)])
def test_broken_answers_are_refused(cache, server, file, answer):
    server.set(PATH, answer)
    assert file.url in refusal(file)
    assert_recovers(cache, server, file)


def test_a_connection_that_was_reset_is_made_again(server, file):
    server.set(PATH, _reset, ranged(CONTENT))
    assert fetch(file).read_bytes() == CONTENT


def test_a_server_with_a_fault_is_asked_again(server, file):
    server.set(PATH, status(500), status(503), whole(CONTENT))
    assert fetch(file).read_bytes() == CONTENT


def test_a_lasting_fault_is_told(cache, server, file):
    server.set(PATH, status(502))
    assert "answered 502 Bad Gateway: the server has a fault" in refusal(file)
    assert len(server.requests) == 4
    assert_recovers(cache, server, file)


def test_the_pause_that_a_server_asks_for_is_kept(server, file):
    server.set(PATH, status(429, retry_after="1"), whole(CONTENT))
    start = time.monotonic()
    assert fetch(file).read_bytes() == CONTENT
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("pause", ["3600", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_an_endless_pause_is_told_and_not_kept(cache, server, file, pause):
    server.set(PATH, status(429, retry_after=pause))
    assert "answered 429 Too Many Requests" in (message := refusal(file))
    assert "asks to wait" in message
    assert len(server.requests) == 1
    assert_recovers(cache, server, file)


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {}], ids=["digest", "nothing known"])
def test_a_web_page_is_refused_whatever_is_known(cache, server, file, known):
    file = PublishedFile(file.url, "torch", **known)
    server.set(PATH, page)
    message = refusal(file)
    assert "a web page (HTML)" in message
    assert "Content-Type: text/html" in message
    assert_recovers(cache, server, file)


@pytest.mark.parametrize(
    ("known", "wanted", "found"),
    [
        ({"sha256": SHA256}, SHA256, hashlib.sha256(OTHER).hexdigest()),
        ({"sha256": SHA256[:8]}, SHA256[:8], hashlib.sha256(OTHER).hexdigest()),
        ({"md5": MD5}, MD5, hashlib.md5(OTHER).hexdigest()),
    ],
    ids=["sha256", "prefix", "md5"],
)
def test_another_file_is_refused_with_both_digests(cache, server, file, known, wanted, found):
    file = PublishedFile(file.url, "torch", **known)
    server.set(PATH, whole(OTHER))
    assert f"is {found} instead of {wanted}" in refusal(file)
    assert_recovers(cache, server, file)


def test_a_file_that_was_damaged_on_the_way_is_downloaded_once_more(server, file):
    server.set(PATH, whole(OTHER), whole(CONTENT))
    assert fetch(file).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "http://192.0.2.1/model",
        "ftp://127.0.0.1/model",
        "//192.0.2.1/",
        "http://[",
    ],
)
def test_a_redirect_leads_nowhere_but_to_https(cache, server, file, target):
    server.set(PATH, redirect(target))
    assert "which is not followed: it is not https://" in refusal(file)
    assert_recovers(cache, server, file)


def test_a_redirect_on_this_machine_is_followed_and_a_circle_is_left(cache, server, file):
    server.set(PATH, redirect("/elsewhere"))
    server.set("/elsewhere", whole(CONTENT))
    assert fetch(file).read_bytes() == CONTENT
    fetch(file).unlink()
    server.set("/elsewhere", redirect(PATH))
    assert "redirects" in refusal(file)
    assert_recovers(cache, server, file)


@pytest.mark.parametrize("url", ["http://192.0.2.1/a/b.h5", "ftp://host/a.h5", "https://h/../b.h5"])
def test_addresses_of_other_kinds_are_refused(url):
    assert "https://" in refusal(PublishedFile(url, "torch"))


def test_more_than_the_known_size_is_not_taken(cache, server, file):
    file = dataclasses.replace(file, size=len(CONTENT))
    server.set(PATH, whole(CONTENT + b"more"))
    assert f"has {len(CONTENT) + 4} bytes instead of {len(CONTENT)}" in refusal(file)
    server.set(PATH, cut(CONTENT + b"more", None, length=False))
    assert f"sends more than {len(CONTENT)} bytes" in refusal(file)
    assert_recovers(cache, server, file)


def test_more_than_any_network_has_is_not_begun(cache, server, file):
    server.set(PATH, cut(CONTENT, 10, length=False, content_length=10**11))
    assert "no ResNet more than" in refusal(file)
    assert len(server.requests) == 1
    assert_recovers(cache, server, file)
