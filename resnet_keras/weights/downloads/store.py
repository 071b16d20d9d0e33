"""Downloads into the cache: one process at a time, complete and verified, or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from resnet_keras.atomic import atomic_path, is_leftover
from resnet_keras.errors import WeightsError
from resnet_keras.weights.downloads.answers import ChangedError, DownloadError
from resnet_keras.weights.downloads.cache import (
    Receipt,
    UnwritableError,
    digest,
    expected,
    fault_of,
    make_folder,
)
from resnet_keras.weights.downloads.local import look_up
from resnet_keras.weights.downloads.origin import origin_of
from resnet_keras.weights.downloads.settings import CACHE_VARIABLE, cache_folder, timeouts
from resnet_keras.weights.downloads.transfer import Download
from resnet_keras.weights.entries import PublishedFile

# Longest wait for another process that fetches the same file, in read time-outs of 30 s.
_LOCK_TIMEOUTS = 20
_logger = logging.getLogger("resnet_keras")


class _DamagedError(ChangedError):
    """Raised when what was downloaded is not what was published."""


def store(file: PublishedFile, path: Path) -> Path:
    """Downloads a file into the cache, unless another process has done so meanwhile.

    Args:
        file: A file that is published over HTTP.
        path: Its place in the cache.

    Returns:
        The path of the verified file.

    Raises:
        WeightsError: If it cannot be downloaded or written, or is not what was published.
    """
    try:
        make_folder(path)
        with locked(path, wait=_LOCK_TIMEOUTS * timeouts()[1]):
            local = look_up(file)
            if local.state == "ok":
                return local.path
            if local.fault:
                _logger.warning("%s is fetched again: %s.", path, local.fault)
            _clear_way(path)
            _download_persistently(file, path)
            _aside(path).unlink(missing_ok=True)
            return path
    except DownloadError as error:
        raise WeightsError(f"{error}; {_advice(error, file, path)}.") from error
    except (OSError, UnwritableError) as error:
        cause = error.__cause__ if isinstance(error, UnwritableError) else error
        raise WeightsError(
            f"The cache {cache_folder()} cannot be written "
            f"({getattr(cause, 'strerror', None) or cause}); free space in it, or set "
            f"{CACHE_VARIABLE} to another folder."
        ) from cause


def _advice(error: DownloadError, file: PublishedFile, path: Path) -> str:
    if isinstance(error, ChangedError) and expected(file, path) != file:
        receipt = Receipt.path_for(path)
        return (
            f"if another file will do, delete {receipt}, which names the first one, and try again"
        )
    return f"try again, or download it by hand to {path}"


@contextlib.contextmanager
def locked(path: Path, *, wait: float) -> Iterator[None]:
    """Lets one process at a time fetch a file; the others wait for it, and say so.

    Args:
        path: The file that is fetched.
        wait: Longest wait, in seconds.

    Raises:
        WeightsError: If the other process is not done by then.
    """
    import filelock

    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _logger.warning("Process %d waits for another one that fetches %s.", os.getpid(), path)
        try:
            lock.acquire(timeout=wait)
        except filelock.Timeout as error:
            raise WeightsError(
                f"Process {os.getpid()} waited {wait:g} s for another process that fetches {path}; "
                "end that one, or wait until it is done, and try again."
            ) from error
    try:
        yield
    finally:
        lock.release()


def _clear_way(path: Path) -> None:
    """Removes what killed downloads left, and sets aside a file that cannot be used."""
    for target in (path, Receipt.path_for(path)):
        for found in path.parent.glob(f".*.tmp{target.suffix}"):
            if found.name.startswith(f".{target.stem}.") and is_leftover(found):
                found.unlink(missing_ok=True)
    if path.exists():
        path.replace(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.altered")


def _download_persistently(file: PublishedFile, path: Path) -> None:
    """Downloads a file, once more if what came was damaged or was taken away."""
    try:
        _download(file, path)
    except (_DamagedError, WeightsError) as error:
        # A process that did not see the lock takes an unfinished file for that of a dead one.
        lost = isinstance(error.__cause__, FileNotFoundError)
        if not lost and not isinstance(error, _DamagedError):
            raise
        _logger.warning("%s is downloaded once more: %s", path, error)
        _download(file, path)


def _download(file: PublishedFile, path: Path) -> None:
    origin = origin_of(file, path)
    _logger.info("Downloading %s to %s.", origin.url, path)
    with atomic_path(path, UnwritableError) as temporary:
        with temporary.open("xb") as opened:
            download = Download(origin, expected(file, path), path=temporary, opened=opened)
            download.run()
        if fault := fault_of(temporary, download.known):
            raise _DamagedError(f"{origin.url} gave another file than was published: {fault}")
        # The receipt comes first: were the file there alone, its revision would be forgotten.
        receipt = Receipt(digest(temporary, "sha256"), temporary.stat().st_size, origin.commit)
        receipt.write(path)
