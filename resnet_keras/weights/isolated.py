"""Reading of files by libraries that hostile files could harm: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.weights.files import read_container

_CHILD = Path(__file__).with_name("child.py")
_TIME_OUT = 600
# What the process sees of the environment beside the paths of modules: no secrets.
_ENVIRONMENT = (
    "DYLD_LIBRARY_PATH",
    "HOME",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONHOME",
    "SYSTEMROOT",
    "USERPROFILE",
    "VIRTUAL_ENV",
)


def read_isolated(path: Path, kind: Literal["h5", "torch"], *, label: str) -> dict[str, np.ndarray]:
    """Reads a file in a child process, which can only return tensors.

    Args:
        path: The file.
        kind: Which library reads it.
        label: What it is, for messages.

    Returns:
        Arrays by name; see `child.py`.

    Raises:
        WeightsError: If the file is damaged, holds what is refused, or brings down its reader.
    """
    with tempfile.TemporaryDirectory(prefix="resnet_keras-") as folder:
        target = Path(folder) / "tensors.safetensors"
        _run([kind, str(path.absolute()), str(target)], target.parent, label)
        return read_container(target)[0]


def _run(arguments: list[str], folder: Path, label: str) -> None:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path),
        "CUDA_VISIBLE_DEVICES": "",
        "TMPDIR": str(folder),
    }
    try:
        done = subprocess.run(
            # -P: modules beside the script must not stand in for others of their name.
            [sys.executable, "-P", str(_CHILD), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIME_OUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{label} was given up after {_TIME_OUT} seconds of reading.") from error
    if done.returncode > 0 and (lines := done.stderr.strip().splitlines()):
        raise WeightsError(f"{label} {lines[-1]}")
    if done.returncode:
        raise WeightsError(
            f"{label} is damaged: its reader ended with {done.returncode}; copy or download it "
            "again."
        )
