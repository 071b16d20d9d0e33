"""Where a file is downloaded from: a plain address, or a repository on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import ipaddress
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from resnet_keras.errors import WeightsError
from resnet_keras.weights.downloads.cache import (
    SHA256_DIGITS,
    Receipt,
    digest,
    expected,
    fault_of,
)
from resnet_keras.weights.entries import PublishedFile

if TYPE_CHECKING:
    import requests

HUB = "hf://"
_logger = logging.getLogger("resnet_keras")


@dataclasses.dataclass
class Origin:
    """An address, and what the hub says about the file there before it sends it.

    Args:
        url: Address over HTTP.
        hub: Whether it is on the Hugging Face hub.
        sha256: Digest of the stored object, once the hub has named it.
        size: Its length in bytes, likewise.
        commit: Revision of the repository, likewise.
    """

    url: str
    hub: bool = False
    sha256: str = ""
    size: int = 0
    commit: str = ""

    def note(self, response: requests.Response) -> None:
        """Keeps what an answer of the hub says; what it redirects to is not asked."""
        headers = response.headers
        if not self.hub or urlsplit(response.url).netloc != urlsplit(self.url).netloc:
            return
        tag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
        if len(tag) == SHA256_DIGITS:
            self.sha256 = tag
        if (size := headers.get("X-Linked-Size", "")).isdigit():
            self.size = int(size)
        self.commit = headers.get("X-Repo-Commit", self.commit)

    def authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Adds the user's token to a request to the hub; requests drops it on other hosts."""
        token = os.environ.get("HF_TOKEN", "").strip()
        if self.hub and token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request


def origin_of(file: PublishedFile, path: Path) -> Origin:
    """Returns where to download a file that belongs at `path`.

    From the hub comes the revision that was fetched first, if one was.
    """
    if not file.url.startswith(HUB):
        return Origin(file.url)
    repository, name = _repository(file)
    revision = _first_revision(path) or "main"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return Origin(f"{endpoint}/{repository}/resolve/{revision}/{name}", hub=True)


def is_allowed(url: str, *, base: str = "") -> bool:
    """Whether an address, which may be relative to `base`, is encrypted or on this machine."""
    try:
        parts = urlsplit(urljoin(base, url))
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https":
        return bool(host)
    if parts.scheme != "http":
        return False
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def in_hub_cache(file: PublishedFile, path: Path) -> tuple[Path, Receipt] | None:
    """Looks for an intact copy of a file in the cache of `huggingface_hub`.

    Args:
        file: The file.
        path: Its place in the own cache, where its receipt may be.

    Returns:
        The path of the copy and what it is, or None.
    """
    if not file.url.startswith(HUB) or importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, name = _repository(file)
    revision = _first_revision(path) or "main"
    found = try_to_load_from_cache(repository, name, revision=revision)
    if not isinstance(found, str):
        return None
    copy = Path(found)
    known = _with_blob_name(expected(file, path), copy)
    fault = fault_of(copy, known) if known.sha256 else "its sha256 is not known"
    if fault:
        _logger.info("%s is not used: %s.", copy, fault)
        return None
    sha256 = known.sha256 if len(known.sha256) == SHA256_DIGITS else digest(copy, "sha256")
    return copy, Receipt(sha256, copy.stat().st_size, copy.parents[name.count("/")].name)


def _first_revision(path: Path) -> str:
    """Returns the revision from which a file of the hub was first fetched, or nothing."""
    receipt = Receipt.of(path)
    return receipt.commit if receipt else ""


def _repository(file: PublishedFile) -> tuple[str, str]:
    """Returns OWNER/REPOSITORY and FILE."""
    parts = file.url.removeprefix(HUB).split("/", 2)
    if len(parts) < 3:
        raise WeightsError(
            f"A file on the hub is named hf://OWNER/REPOSITORY/FILE. Received: {file.url!r}"
        )
    return "/".join(parts[:2]), parts[2]


def _with_blob_name(file: PublishedFile, found: Path) -> PublishedFile:
    """Adds the sha256 by which the hub's cache names large files, where the two agree."""
    blob = found.resolve().name.lower()
    if len(blob) == SHA256_DIGITS and blob.startswith(file.sha256.lower()):
        return dataclasses.replace(file, sha256=blob)
    return file
