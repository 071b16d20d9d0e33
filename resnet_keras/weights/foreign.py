"""Files of other programs: known by their digest, by a name given with them, or by themselves."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.records import Record
from resnet_keras.weights.entries import RegistryEntry
from resnet_keras.weights.files import Weights, listed
from resnet_keras.weights.layouts import LAYOUTS, detect_layout
from resnet_keras.weights.layouts.convert import convert, infer_spec, with_record
from resnet_keras.weights.onnx import read_onnx
from resnet_keras.weights.published_files import published_as, read_onnx_like, read_published
from resnet_keras.weights.readers import read_foreign

_logger = logging.getLogger("resnet_keras")


def read_file(path: Path, like: RegistryEntry | None, *, allow_keras: bool) -> Weights:
    """Reads a file that another program wrote.

    Args:
        path: The file.
        like: The registered weights whose network and recipe it has; None to find out.
        allow_keras: Whether a `.keras` archive may be read.

    Raises:
        WeightsError: If the file is damaged, of no known kind or network, or a copy of other
            registered weights than `like`.
    """
    copies = {entry.name: (entry, file) for entry, file in published_as(path)}
    if copies:
        if like is not None and like.name not in copies:
            raise WeightsError(
                f"{path} is a copy of the published weights {listed(copies)}, not of "
                f"{like.name!r}; leave `like` out."
            )
        entry, file = copies[like.name if like else min(copies)]
        _logger.info("%s is a copy of the published weights %r", path.name, entry.name)
        return read_published(path, entry, file)
    if path.suffix.lower() == ".onnx":
        return _renamed(read_onnx_like(path, like), path, like) if like else read_onnx(path)
    tensors = read_foreign(path, allow_keras=allow_keras)
    return _read_like(path, tensors, like) if like else _read_unknown(path, tensors)


def _read_like(path: Path, tensors: dict[str, np.ndarray], like: RegistryEntry) -> Weights:
    layout = detect_layout(tensors, label=str(path))
    weights = convert(tensors, layout, like.record, bgr=like.bgr, label=str(path))
    return _renamed(weights, path, like)


def _renamed(weights: Weights, path: Path, like: RegistryEntry) -> Weights:
    source = f"{path.name}, read like {like.name}"
    record = dataclasses.replace(weights.record, name=path.stem, source=source)
    return with_record(weights.tensors, record)


def _read_unknown(path: Path, tensors: dict[str, np.ndarray]) -> Weights:
    """Returns the weights of a file with the network that it shows and the usual recipe."""
    label = str(path)
    layout = detect_layout(tensors, label=label)
    spec = infer_spec(tensors, layout, label=label)
    recipe, bgr = LAYOUTS[layout].usual(spec)
    source = f"{path.name}, laid out as {layout}"
    record = Record(spec=spec, recipe=recipe, name=path.stem, source=source)
    weights = convert(tensors, layout, record, bgr=bgr, label=label)
    _report(path, weights.record, bgr=bgr)
    return weights


def _report(path: Path, record: Record, *, bgr: bool) -> None:
    recipe = record.recipe
    _logger.warning(
        "%s says neither which convolutions of its blocks have the strides nor how pixels are "
        "prepared: assumed are %s and %d pixels, crop %g, %s, mean %s, standard deviation %s%s; "
        "`like` (--like) names registered weights whose network and preprocessing are taken",
        path.name,
        record.spec.title,
        recipe.image_size,
        recipe.crop,
        recipe.interpolation,
        _rounded(recipe.mean),
        _rounded(recipe.std),
        ", and that it wants BGR" if bgr else "",
    )


def _rounded(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
