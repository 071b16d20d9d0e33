"""The cache of fetched weights: where its files lie, and which of them may be used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from resnet_keras.atomic import write_atomically
from resnet_keras.errors import WeightsError
from resnet_keras.weights.downloads.settings import cache_folder
from resnet_keras.weights.entries import PublishedFile
from resnet_keras.weights.sniff import container_of, kind_of, truncation

SHA256_DIGITS = 64


class UnwritableError(WeightsError):
    """Raised when the cache cannot be written; its cause is the error of the system."""


def cache_path(file: PublishedFile) -> Path:
    """Returns where a file lies once it is fetched, or has to be put by hand.

    Args:
        file: A file that is not in a package.

    Returns:
        A path below `cache_folder()` that follows the address of the file.

    Raises:
        WeightsError: If the address is of an unknown kind or would lead out of the cache.
    """
    scheme, _, place = file.url.partition("://")
    parts = place.replace(":", "_").split("/")
    strange = any(part in ("", ".", "..") or "\\" in part for part in parts)
    if scheme not in ("https", "http", "hf", "kaggle") or strange or len(parts) < 2:
        raise WeightsError(
            "Weights are fetched from https://, hf://OWNER/REPOSITORY/FILE, kaggle://HANDLE or "
            f"package://MODULE/FILE. Received: {file.url!r}"
        )
    if scheme == "kaggle":
        parts.append("model.weights.h5")
    return cache_folder().joinpath(*([scheme] if scheme in ("hf", "kaggle") else []), *parts)


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What a file was when it was first fetched; kept as JSON beside it and checked ever after.

    Args:
        sha256: Digest of the file, in 64 hexadecimal digits.
        size: Length in bytes.
        commit: Revision of the repository on the Hugging Face hub, empty for other files.
    """

    sha256: str
    size: int
    commit: str = ""

    @staticmethod
    def path_for(path: Path) -> Path:
        """Returns where the receipt of the file at `path` lies."""
        return path.with_name(f"{path.name}.json")

    @classmethod
    def of(cls, path: Path) -> Receipt | None:
        """Returns the receipt of the file at `path`, None if there is none that can be read."""
        try:
            values = json.loads(cls.path_for(path).read_text("utf-8"))
            receipt = cls(str(values["sha256"]), int(values["size"]), str(values["commit"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return receipt if len(receipt.sha256) == SHA256_DIGITS else None

    def write(self, path: Path) -> None:
        """Writes the receipt of the file at `path`, atomically.

        Raises:
            UnwritableError: If that is not possible.
        """
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        write_atomically(self.path_for(path), [text.encode()], UnwritableError)


def expected(file: PublishedFile, path: Path) -> PublishedFile:
    """Returns the file with what its receipt adds to what was published about it."""
    receipt = Receipt.of(path)
    published = bool(file.md5) or len(file.sha256) == SHA256_DIGITS
    if published or receipt is None or not receipt.sha256.startswith(file.sha256.lower()):
        return file
    return dataclasses.replace(file, sha256=receipt.sha256, size=receipt.size)


def fault_of(path: Path, file: PublishedFile) -> str:
    """Returns what keeps a local file from being the published one, or nothing.

    All of it is read each time: a byte that was altered under an unchanged date counts too.

    Args:
        path: The local file.
        file: What is known about it.

    Returns:
        Such as "its sha256 is 0af3... instead of f370..."; empty for an intact file.

    Raises:
        WeightsError: If the file cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as opened:
            start = opened.read(64)
        if file.size and size != file.size:
            return f"it has {size} bytes instead of {file.size}"
        if kind := strange_kind(start):
            return f"it is {kind}"
        if file.sha256 or file.md5:
            return _digest_fault(path, file)
        cause = truncation(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
    return f"it is truncated: {cause}" if cause else ""


def digest(path: Path, algorithm: str) -> str:
    """Returns the digest of a file, in hexadecimal digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, algorithm).hexdigest()


def _digest_fault(path: Path, file: PublishedFile) -> str:
    algorithm = "sha256" if file.sha256 else "md5"
    wanted = (file.sha256 or file.md5).lower()
    found = digest(path, algorithm)
    more = "..." if len(wanted) < len(found) else ""
    matches = found.startswith(wanted)
    return "" if matches else f"its {algorithm} is {found} instead of {wanted}{more}"


def strange_kind(start: bytes) -> str:
    """Returns what the first bytes are those of, if no file of weights begins so, or nothing."""
    if not start:
        return "empty"
    return "" if container_of(start) else kind_of(start).partition(";")[0]


def make_folder(path: Path) -> None:
    """Makes the folder of a file; a new cache is for its owner alone."""
    cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
