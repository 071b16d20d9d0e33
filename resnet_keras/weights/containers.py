"""What a safetensors file is, and its weights as numbers of one type."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import safetensors

from resnet_keras.errors import WeightsError
from resnet_keras.weights.files import FORMAT, listed

_logger = logging.getLogger("resnet_keras")


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
