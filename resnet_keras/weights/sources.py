"""`read_weights`: one entry for everything that weights are read from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.records import Record
from resnet_keras.weights.files import Weights, listed, near, read_tensors
from resnet_keras.weights.onnx import read_onnx
from resnet_keras.weights.registry import REGISTRY, read_entry

# How the tensors of the network are told from those of the optimizer in a checkpoint.
MODEL_PREFIX = "model/"
_CHECKPOINTS = ("checkpoints/best.safetensors", "checkpoints/last.safetensors")
_logger = logging.getLogger("resnet_keras")


def read_weights(source: str | Path, *, allow_nonfinite: bool = False) -> Weights:
    """Reads and verifies weights without building a network.

    Args:
        source: A name of `list_weights()`, a `.safetensors` or `.onnx` file, or a run folder,
            whose best checkpoint is taken, or else its last.
        allow_nonfinite: Whether NaN and infinity may occur.

    Returns:
        The tensors, as float32, and their record.

    Raises:
        WeightsError: If the source is missing, damaged, altered or of another kind.

    Example:
        >>> import tempfile
        >>> from resnet_keras.weights import read_weights
        >>> model = build_resnet(18, num_classes=2, width=0.125)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     weights = read_weights(save_weights(model, f"{folder}/small.safetensors"))
        >>> weights.record.spec.depth, weights.num_classes
        (18, 2)
    """
    if isinstance(source, str) and source in REGISTRY:
        weights = read_entry(REGISTRY[source])
    else:
        path = _locate(Path(source))
        weights = read_onnx(path) if path.suffix.lower() == ".onnx" else _read_own(path)
    if not allow_nonfinite:
        _check_finite(weights, source)
    return weights


def _locate(path: Path) -> Path:
    """Returns the file that a path means."""
    try:
        if path.is_dir():
            return _checkpoint(path)
        if path.exists():
            return path
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
    raise WeightsError(
        f"{str(path)!r} is no file, run folder or registry name (which are "
        f"{listed(REGISTRY)}).{near(path.name, [*siblings, *REGISTRY])}"
    )


def _checkpoint(folder: Path) -> Path:
    for name in _CHECKPOINTS:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{folder} is a folder without {' or '.join(_CHECKPOINTS)}; name a run folder or a file."
    )


def _read_own(path: Path) -> Weights:
    tensors, record, _ = read_tensors(path)
    if any(name.startswith(MODEL_PREFIX) for name in tensors):
        tensors = {
            name.removeprefix(MODEL_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(MODEL_PREFIX)
        }
    return Weights(record, _as_float32(tensors, path, record))


def _as_float32(
    tensors: dict[str, np.ndarray], path: Path, record: Record
) -> dict[str, np.ndarray]:
    kinds = {name: tensor.dtype.name for name, tensor in tensors.items()}
    if integers := [name for name, kind in kinds.items() if "float" not in kind]:
        raise WeightsError(
            f"{path} holds whole numbers or flags where weights are needed: {listed(integers)}."
        )
    if others := sorted(set(kinds.values()) - {"float32"}):
        _logger.warning("%s holds %s; converted to float32", record.name, " and ".join(others))
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def _check_finite(weights: Weights, source: str | Path) -> None:
    bad = [name for name, tensor in weights.tensors.items() if not np.isfinite(tensor).all()]
    if bad:
        raise WeightsError(
            f"{source} holds numbers that are not finite (NaN or infinity) in {listed(bad)}; "
            "`read_weights(..., allow_nonfinite=True)` reads them all the same."
        )
