"""Tensors of any safetensors file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import safetensors

from resnet_keras.errors import WeightsError
from resnet_keras.weights.files import FORMAT, listed
from resnet_keras.weights.sniff import truncation

_logger = logging.getLogger("resnet_keras")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of any safetensors file, by its own names.

    Raises:
        WeightsError: If the file is truncated or damaged.
    """
    if cause := truncation(path):
        raise WeightsError(f"{path} is truncated: {cause}; copy or download it again.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            # safetensors has compared every shape with the bytes of the file by now.
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file: {error}.") from error


def is_own(path: Path) -> bool:
    """Returns whether a file is one that `write_tensors` wrote, by what it says of itself."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (safetensors.SafetensorError, OSError, ValueError, TypeError):
        return False


def as_float32(tensors: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Returns weights as float32, and says so where they are of another type.

    Raises:
        WeightsError: If there are whole numbers or flags among them.
    """
    kinds = {name: tensor.dtype.name for name, tensor in tensors.items()}
    if others := [name for name, kind in kinds.items() if "float" not in kind]:
        raise WeightsError(
            f"{path} holds whole numbers or flags where weights are needed: {listed(others)}."
        )
    if wide := sorted(set(kinds.values()) - {"float32"}):
        _logger.warning("%s holds %s; converted to float32", path.name, " and ".join(wide))
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
