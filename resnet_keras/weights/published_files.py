"""Registered weights out of the files that their publishers wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from resnet_keras.errors import WeightsError
from resnet_keras.weights.downloads.cache import digest
from resnet_keras.weights.entries import PublishedFile, RegistryEntry
from resnet_keras.weights.fetch import fetch_entry
from resnet_keras.weights.files import Weights
from resnet_keras.weights.layouts.convert import convert
from resnet_keras.weights.onnx import read_onnx
from resnet_keras.weights.readers import read_foreign
from resnet_keras.weights.registry import REGISTRY

# Fewer digits of a digest say nothing about a file.
_MIN_DIGITS = 8


def read_entry(entry: RegistryEntry) -> Weights:
    """Reads registered weights, fetching them first if they are not on this machine.

    Args:
        entry: Weights that are known by name.

    Returns:
        Their tensors and their record.

    Raises:
        WeightsError: If no file can be had, or it is not what the registry says.
    """
    file, path = fetch_entry(entry)
    return read_published(path, entry, file)


def read_published(path: Path, entry: RegistryEntry, file: PublishedFile) -> Weights:
    """Reads a local copy of a published file.

    Args:
        path: The copy.
        entry: The weights that the file is of.
        file: What was published.

    Raises:
        WeightsError: If the copy is damaged, or not of the network and classes of the entry.
    """
    record, label = entry.record, str(path)
    if file.layout == "onnx":
        weights = read_onnx_like(path, entry)
    else:
        weights = convert(read_foreign(path), file.layout, record, bgr=entry.bgr, label=label)
    if weights.num_classes not in (None, entry.num_classes):
        raise WeightsError(
            f"{path} has {weights.num_classes} classes and {entry.name!r} has {entry.num_classes}; "
            "it is another file than the registry describes: fetch it again."
        )
    return weights


def read_onnx_like(path: Path, entry: RegistryEntry) -> Weights:
    """Reads an ONNX file of the network and with the record of registered weights.

    Raises:
        WeightsError: If the file is damaged, or of another network.
    """
    record = entry.record
    weights = read_onnx(path, recipe=record.recipe, bgr=entry.bgr)
    if weights.record.spec != record.spec:
        raise WeightsError(
            f"{path} is of the network {weights.record.spec}, not of that of {entry.name!r}, "
            f"{record.spec}; name other weights."
        )
    return Weights(record, weights.tensors)


def published_as(path: Path) -> list[tuple[RegistryEntry, PublishedFile]]:
    """Returns the registered weights that a file is a copy of, by its digest."""
    size, found = path.stat().st_size, dict[str, str]()
    matches = []
    for entry, file in _known_files():
        algorithm = "sha256" if file.sha256 else "md5"
        wanted = file.sha256 or file.md5
        if len(wanted) < _MIN_DIGITS or file.size not in (0, size):
            continue
        if algorithm not in found:
            found[algorithm] = digest(path, algorithm)
        if found[algorithm].startswith(wanted.lower()):
            matches.append((entry, file))
    return matches


def _known_files() -> Iterator[tuple[RegistryEntry, PublishedFile]]:
    for entry in REGISTRY.values():
        for file in entry.files:
            yield entry, file
