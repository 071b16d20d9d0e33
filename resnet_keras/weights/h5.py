"""Weights that Keras wrote: HDF5 files, alone or in a `.keras` archive."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.weights.isolated import read_isolated

_MEMBER = "model.weights.h5"


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """Reads all weights of an HDF5 file of Keras 2 or 3.

    Returns:
        Arrays by `layer/variable`; both are numbers where the file has no names for them.

    Raises:
        WeightsError: If the file is damaged, or holds links or arrays that are not plain.
    """
    return read_isolated(path, "h5", label=str(path))


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Reads the weights of a `.keras` archive; its model, which could run code, is not looked at.

    Raises:
        WeightsError: If the archive is damaged, or has no weights as Keras writes them.
    """
    with tempfile.TemporaryDirectory(prefix="resnet_keras-") as folder:
        target = Path(folder) / _MEMBER
        content = _member(path)
        try:
            target.write_bytes(content)
        except OSError as error:
            raise WeightsError(
                f"{path} could not be unpacked to {target.parent} ({error.strerror or error}); "
                "free space there."
            ) from error
        return read_isolated(target, "h5", label=str(path))


def _member(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(_MEMBER)
            if member.compress_type != zipfile.ZIP_STORED:
                raise WeightsError(f"{path} compresses its {_MEMBER}, which Keras never does.")
            return archive.read(member)
    except KeyError as error:
        raise WeightsError(
            f"{path} has no {_MEMBER}; save the weights with `model.save_weights`."
        ) from error
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise WeightsError(f"{path} is damaged: {error}; copy or download it again.") from error
