"""The run folder: what a run was made of, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import yaml

from resnet_keras.atomic import is_leftover, remove_leftovers, write_atomically
from resnet_keras.errors import RunError

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
# What changes the kernels, and so the last bits.
VARIABLES = ("OMP_NUM_THREADS", "TF_ENABLE_ONEDNN_OPTS")
PACKAGES = (
    "resnet_keras",
    "tensorflow",
    "keras",
    "jax",
    "numpy",
    "pillow",
    "safetensors",
    "scikit-learn",
)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_atomically(path, [text.encode()], RunError)


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows as CSV, whole or not at all; a column for every key of any row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keeps every other process out of a run folder; the system lets go if this one dies.

    Raises:
        RunError: If another process is at work in it, or the lock cannot be written.
    """
    # Beside the folder, which a new run must find empty and whose files are all in its manifest.
    path = folder.absolute().with_name(f".{folder.absolute().name}.lock")
    lock = filelock.FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise RunError(
            f"Another process is at work in the run folder {folder}: wait for it to end, or "
            "choose another folder."
        ) from None
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


def open_run(folder: Path, config: dict[str, Any], *, resume: bool, force: bool) -> None:
    """Makes the run folder, or checks that the one which is there is the same run.

    Raises:
        RunError: If a run is there and neither `resume` nor `force` says what to do with it, if
            it was made with another config, or if the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"The run folder must be a folder, but {folder} is a file: choose another.")
    known = folder / CONFIG
    if force and known.exists():
        _remove_run(folder)
    if known.exists():
        if not resume:
            raise RunError(
                f"The folder {folder} already holds a run: resume it, choose another folder, or "
                "force a new run, which deletes the old one."
            )
        _check_same(folder, read_config(folder), config)
        remove_leftovers(folder)
        return
    if folder.exists() and not all(map(is_leftover, folder.iterdir())):
        raise RunError(
            f"The folder {folder} holds other files but no run ({CONFIG} is missing): choose an "
            "empty or a new folder."
        )
    write_text(known, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the config of a run.

    Raises:
        RunError: If the folder holds no readable config.
    """
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"The folder {folder} is no run: it has no {CONFIG}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"The file {folder / CONFIG} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise RunError(f"The file {folder / CONFIG} must hold a mapping of settings.")
    return config


def _remove_run(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    # What YAML gives back is compared with what YAML would give back: tuples are lists there.
    new = yaml.safe_load(yaml.safe_dump(new))
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            raise RunError(
                f"The run in {folder} can only be resumed with the settings it began with: "
                f"{name} was {old.get(name)!r}, now it is {new.get(name)!r}."
            )


def environment(seed: int, fingerprint: str) -> dict[str, Any]:
    """Returns what is needed to repeat a run besides its config."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "packages": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "seed": seed,
        "data_fingerprint": fingerprint,
    }


def write_manifest(folder: Path) -> None:
    """Writes `manifest.json`: the SHA-256 of every file of the run but itself."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    digests = {}
    for path in files:
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(folder / MANIFEST, digests)
