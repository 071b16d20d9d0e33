"""Checkpoints of torch: what is checked before a process of its own unpickles one."""

from __future__ import annotations

import importlib.metadata
import re
import zipfile
from pathlib import Path

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.weights.isolated import read_isolated

# Before 2.10 files could run code in spite of `weights_only`.
_OLDEST = (2, 10)
_INSTALL = 'pip install "resnet_keras[torch]"'


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint that torch wrote.

    Nothing is unpickled here: a child process reads the file with torch's `weights_only` and
    returns the tensors as safetensors.

    Args:
        path: A `.pth`, `.pt` or `.bin` file: tensors by name, alone or under "state_dict" or
            "model".

    Returns:
        Arrays by the file's own names.

    Raises:
        WeightsError: If torch is missing or too old, or if the file is damaged or holds anything
            but tensors.
    """
    _check_torch(path)
    _check_archive(path)
    return read_isolated(path, "torch", label=str(path))


def _check_torch(path: Path) -> None:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsError(
            f"{path} is a checkpoint of torch, and torch, which has to read it, is not installed: "
            f"{_INSTALL}."
        ) from error
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < _OLDEST:
        raise WeightsError(
            f"{path} is a checkpoint of torch, which could run code in torch {version}; "
            f"{'.'.join(map(str, _OLDEST))} or newer is needed: {_INSTALL}."
        )


def _check_archive(path: Path) -> None:
    """Refuses archives that are larger inside: torch never compresses."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {error}; copy or download it again.") from error
    if inside > path.stat().st_size:
        raise WeightsError(
            f"{path} has {path.stat().st_size} bytes and claims to hold {inside}, which torch "
            "never writes; it is not read."
        )
