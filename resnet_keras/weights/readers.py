"""Reading weights files of other programs: arrays by the names that the file has for them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.weights.containers import as_float32
from resnet_keras.weights.files import read_container
from resnet_keras.weights.h5 import read_h5, read_keras
from resnet_keras.weights.pth import read_pth
from resnet_keras.weights.sniff import Container, check_readable, container_of, first_bytes

# Ending -> the container that such files are; None stands for safetensors.
_ENDINGS: dict[str, tuple[Container | None, ...]] = {
    ".safetensors": (None,),
    ".h5": ("hdf5",),
    ".hdf5": ("hdf5",),
    ".keras": ("zip",),
    ".pth": ("zip", "pickle"),
    ".pt": ("zip", "pickle"),
    ".bin": ("zip", "pickle"),
}
_ANY: tuple[Container | None, ...] = (None, "hdf5", "zip", "pickle")
# torch counts batches beside its batch norms.
_COUNTER = "num_batches_tracked"


def read_foreign(path: str | Path, *, allow_keras: bool = False) -> dict[str, np.ndarray]:
    """Reads a weights file of another program.

    No file can run code: pickles are left to torch's `weights_only` in a process of its own, and
    of `.keras` archives only the arrays are read.

    Args:
        path: A safetensors file, an HDF5 file of Keras 2 or 3, a checkpoint of torch, or a
            `.keras` archive. The first bytes decide, and the ending must not contradict them.
        allow_keras: Whether a `.keras` archive may be read.

    Returns:
        float32 arrays by the file's own names; `layer/variable` for files of Keras, where both
        are numbers if the file has no names for them.

    Raises:
        WeightsError: If the file is missing, damaged, of another kind, or holds whole numbers.
    """
    path = Path(path)
    accepted = _ENDINGS.get(path.suffix.lower(), _ANY)
    check_readable(path, [kind for kind in accepted if kind is not None])
    container = container_of(first_bytes(path))
    if container not in accepted:
        raise WeightsError(
            f"{path} does not begin as {path.suffix} files do; give it the ending of what it is, "
            "or fetch it again."
        )
    tensors = _reader(path, container, allow_keras=allow_keras)(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTER)}
    if not weights:
        raise WeightsError(f"{path} holds no weights.")
    return as_float32(weights, path)


def _reader(
    path: Path, container: Container | None, *, allow_keras: bool
) -> Callable[[Path], dict[str, np.ndarray]]:
    if container is None:
        return lambda path: read_container(path)[0]
    if container == "hdf5":
        return read_h5
    if not _is_keras(path, container):
        return read_pth
    if not allow_keras:
        raise WeightsError(
            f"{path} is an archive of Keras, which can hold code beside its weights; save those "
            "alone with `model.save_weights`, or read no more than them with `allow_keras=True` "
            "(--allow-keras)."
        )
    return read_keras


def _is_keras(path: Path, container: Container) -> bool:
    if path.suffix.lower() in _ENDINGS:
        return path.suffix.lower() == ".keras"
    try:
        with zipfile.ZipFile(path) as archive:
            return container == "zip" and "config.json" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
