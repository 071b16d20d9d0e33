"""Versions: written out of sight, published under the next number, complete or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from resnet_keras.errors import ExportError

PREFIX = ".export-"
# As `tempfile` names folders.
_SCRATCH = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")
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

    What a killed export left in the folder of all versions is removed first, unless another
    one is under way.

    Args:
        path: Folder of all versions; made if missing.

    Raises:
        ExportError: If it cannot be written; earlier versions are untouched.
    """
    if path.exists() and not path.is_dir():
        raise ExportError(f"An export needs a folder for its versions, but {path} is a file.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _in_use(path), tempfile.TemporaryDirectory(prefix=PREFIX, dir=path) as scratch:
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


@contextlib.contextmanager
def _in_use(path: Path) -> Iterator[None]:
    """Says that an export is under way in a folder, by a lock that ends with its process."""
    if os.name != "posix":  # no other system locks folders
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks keeps what was left
            _share(handle, path)
        yield
    finally:
        os.close(handle)


def _share(handle: int, path: Path) -> None:
    """Joins the exports that are under way; the first of them removes what killed ones left."""
    import fcntl

    with contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in path.iterdir():
            if _SCRATCH.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
    fcntl.flock(handle, fcntl.LOCK_SH)


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
