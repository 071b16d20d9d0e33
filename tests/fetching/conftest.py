"""An empty cache, a server on this machine, and a file that it has."""

import pytest

from resnet_keras.weights.entries import PublishedFile
from tests.weights_server import CONTENT, PATH, SHA256, empty_cache, serving, whole


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    return empty_cache(tmp_path, monkeypatch)


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def file(server):
    """Returns a published file of known digest, which the server has."""
    server.set(PATH, whole(CONTENT))
    return PublishedFile(server.url + PATH, "torch", sha256=SHA256)
