"""Files that are whole or not there: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from resnet_keras.errors import ResNetKerasError

# As `atomic_path` names them.
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\..*)?")


@contextlib.contextmanager
def atomic_path(path: Path, error: type[ResNetKerasError]) -> Iterator[Path]:
    """Yields a new name in the same folder that becomes `path` if all goes well.

    Args:
        path: The file to write; its folder is made if missing.
        error: What is raised if it cannot be written, on a full disk for instance; whatever
            was at `path` before stays as it was.
    """
    # The ending stays at the end: Keras chooses the format by it.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as cause:
        raise error(
            f"{path} could not be written ({cause.strerror or cause}); free space or choose "
            "another folder: what was there is untouched."
        ) from cause
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(
    path: Path, parts: Iterable[bytes | memoryview], error: type[ResNetKerasError]
) -> Path:
    """Writes the parts, in order, to a file that is either complete or not there."""
    with atomic_path(path, error) as temporary, temporary.open("wb") as file:
        file.writelines(parts)
    return path


def is_leftover(path: Path) -> bool:
    """Whether a file is what a killed writer left."""
    return _LEFTOVER.fullmatch(path.name) is not None and path.is_file()


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers left below a folder."""
    for path in folder.rglob(".*"):
        if is_leftover(path):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
