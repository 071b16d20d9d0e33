"""A server of weights on 127.0.0.1 that answers well or badly, and what must hold afterwards."""

import contextlib
import hashlib
import http.server
import threading
import time

import numpy as np
import pytest
import safetensors.numpy

from resnet_keras.errors import WeightsError
from resnet_keras.weights.downloads import transfer
from resnet_keras.weights.fetch import fetch

CONTENT = safetensors.numpy.save(
    {"weight": np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8)}
)
OTHER = safetensors.numpy.save({"weight": np.zeros(300_000, np.uint8)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
PATH = "/models/model.safetensors"


def empty_cache(tmp_path, monkeypatch):
    """Returns an empty cache, with short waits and without the caches and tokens of the user."""
    import huggingface_hub.constants

    for name in ("RESNET_KERAS_OFFLINE", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESNET_KERAS_TIMEOUT", "0.5")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(transfer, "_PAUSES", (0.05, 0.1, 0.2))
    return tmp_path / "cache"


def is_clean(cache):
    """Whether every file in the cache that could be read as weights is the published one."""
    side = (".json", ".lock", ".altered")
    weights = [path for path in cache.rglob("*") if path.is_file() and path.suffix not in side]
    return all(path.read_bytes() == CONTENT for path in weights)


def assert_recovers(cache, server, file):
    """Asserts that a failure left nothing bad behind and nothing in the way."""
    assert is_clean(cache)
    server.set(PATH, whole(CONTENT))
    assert fetch(file).read_bytes() == CONTENT
    assert is_clean(cache)


def refusal(file, **options):
    """Returns the sentence with which a file is refused."""
    with pytest.raises(WeightsError) as caught:
        fetch(file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Server(http.server.ThreadingHTTPServer):
    """Gives each path the answers set for it, the last one again and again.

    An answer is a function of the request handler; a path without one is answered with 404.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers = {}
        self.requests = []
        self.gone = threading.Event()

    def set(self, path, *answers):
        self.answers[path] = list(answers)

    def wait_for(self, requests, *, seconds=20):
        """Waits until so many requests have come, or too long."""
        end = time.monotonic() + seconds
        while len(self.requests) < requests and time.monotonic() < end:
            time.sleep(0.005)

    def handle_error(self, request, client_address):
        """Says nothing: clients that leave early are what the tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    # Its connections are closed after each answer, which ends a body without a length.
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        answers = server.answers.get(self.path, [status(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *arguments):
        """Says nothing."""

    def begin(self, code, headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


@contextlib.contextmanager
def serving():
    """Yields a running server."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.gone.set()
            server.shutdown()
            thread.join()


def whole(content, *, pause=0.0, pieces=1, **headers):
    """Answers with the content, in pieces if it has to take a while."""

    def answer(handler):
        handler.begin(200, {"Content-Length": len(content)} | _names(headers))
        step = -(-len(content) // pieces)
        for start in range(0, len(content), step):
            handler.wfile.write(content[start : start + step])
            handler.server.gone.wait(pause)

    return answer


def held(content, *, requests):
    """Answers with the content, the second half once so many requests have come."""

    def answer(handler):
        handler.begin(200, {"Content-Length": len(content)})
        half = len(content) // 2
        handler.wfile.write(content[:half])
        handler.server.wait_for(requests)
        handler.wfile.write(content[half:])

    return answer


def cut(content, at, *, length=True, **headers):
    """Answers with the first `at` bytes, under the length of the whole content or none."""

    def answer(handler):
        sent = {"Content-Length": len(content)} if length else {}
        handler.begin(200, sent | _names(headers))
        handler.wfile.write(content[:at])

    return answer


def ranged(content, *, most=None, **headers):
    """Answers the range that is asked for, with at most so many bytes before it breaks off."""

    def answer(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        part = content[start:]
        sent = {"Content-Length": len(part)} | _names(headers)
        if start:
            sent["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.begin(206 if start else 200, sent)
        handler.wfile.write(part[:most])

    return answer


def status(code, **headers):
    """Answers with a status and no content."""
    return lambda handler: handler.begin(code, {"Content-Length": 0} | _names(headers))


def redirect(target, **headers):
    """Leads to another address."""
    return status(302, location=target, **headers)


def page(handler):
    """Answers with a web page, as a portal that wants a login does."""
    text = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"
    whole(text, content_type="text/html; charset=utf-8")(handler)


def hang(handler):
    """Never answers."""
    handler.server.gone.wait(60)


def _names(headers):
    return {name.replace("_", "-").title(): value for name, value in headers.items()}
