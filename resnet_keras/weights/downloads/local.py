"""What of the published files is on this machine already, and whether it is intact."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Literal

from resnet_keras.weights.downloads.cache import Receipt, cache_path, digest, expected, fault_of
from resnet_keras.weights.downloads.origin import in_hub_cache
from resnet_keras.weights.entries import PublishedFile

PACKAGE = "package://"
KAGGLE = "kaggle://"
State = Literal["ok", "altered", "missing", "unchecked"]


@dataclasses.dataclass(frozen=True)
class LocalFile:
    """A published file as it is on this machine.

    Args:
        path: Where it lies, or would lie.
        state: "unchecked" if it is there and nothing is known that it could be compared with.
        fault: What is wrong with an altered file.
        receipt: What a file is that was found here first, to be compared from then on.
    """

    path: Path
    state: State
    fault: str = ""
    receipt: Receipt | None = None

    @property
    def is_usable(self) -> bool:
        """Whether the file may be used."""
        return self.state in ("ok", "unchecked")


def look_up(file: PublishedFile) -> LocalFile:
    """Looks for a published file on this machine and verifies it; changes nothing.

    Raises:
        WeightsError: If the file is there and cannot be read.

    Example:
        >>> look_up(PublishedFile("package://no_such_package/weights.onnx", "onnx")).state
        'missing'
    """
    if file.url.startswith(PACKAGE):
        return _in_package(file)
    path = cache_path(file)
    own = _compared(path, expected(file, path))
    if not own.is_usable and (shared := in_hub_cache(file, path)) is not None:
        return LocalFile(shared[0], "ok", receipt=shared[1])
    return own


def _compared(path: Path, known: PublishedFile) -> LocalFile:
    if not os.path.isfile(path):
        return LocalFile(path, "missing")
    if fault := fault_of(path, known):
        return LocalFile(path, "altered", fault)
    if known.sha256 or known.md5:
        return LocalFile(path, "ok")
    receipt = Receipt(digest(path, "sha256"), path.stat().st_size)
    return LocalFile(path, "unchecked", receipt=receipt)


def _in_package(file: PublishedFile) -> LocalFile:
    """Looks for a file in its package, which is found but not imported."""
    module, _, name = file.url.removeprefix(PACKAGE).partition("/")
    # Looking for a package within a package would import the outer one.
    found = importlib.util.find_spec(module) if module.isidentifier() else None
    folders = found.submodule_search_locations if found else None
    paths = [Path(folder) / name for folder in folders or ()]
    path = next((path for path in paths if path.is_file()), None)
    return _compared(path, file) if path else LocalFile(Path(module, name), "missing")
