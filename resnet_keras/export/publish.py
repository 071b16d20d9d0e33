"""Versions: written out of sight, published under the next number, complete or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from resnet_keras.errors import ExportError

# What os.rename says of a name that another export took in the meantime.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


@dataclasses.dataclass
class Version:
    """A version in the making.

    Args:
        folder: Where it is written; not there before, gone afterwards.
        published: Where it is, once it is complete.
    """

    folder: Path
    published: Path


@contextlib.contextmanager
def new_version(path: Path) -> Iterator[Version]:
    """Yields a version to write into `folder`, and publishes it if all goes well.

    Args:
        path: Folder of all versions; made if missing.

    Raises:
        ExportError: If it cannot be written; earlier versions are untouched.
    """
    if path.exists() and not path.is_dir():
        raise ExportError(f"An export needs a folder for its versions, but {path} is a file.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path) as scratch:
            # `mkdtemp` keeps its folder from other users; the one within is as any new folder.
            version = Version(Path(scratch) / "version", path)
            yield version
            _sync(version.folder)
            version.published = _publish(version.folder, path)
    except (OSError, tf.errors.OpError) as error:
        raise ExportError(
            f"The export could not be written to the folder {path} ({_reason(error)}): free space "
            "or choose another folder; earlier versions are unchanged."
        ) from error


def _publish(folder: Path, path: Path) -> Path:
    number = 1 + max((int(p.name) for p in path.iterdir() if p.name.isdecimal()), default=0)
    while True:
        try:
            return folder.rename(path / str(number))
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            number += 1


def _sync(folder: Path) -> None:
    """Makes the files survive a power cut before anything points to them."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    # TensorFlow names the node, the temporary file, the cause and the op.
    line = str(error).partition("\n")[0].rpartition("; ")[2]
    return line.partition(" [Op:")[0] or type(error).__name__
