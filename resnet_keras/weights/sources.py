"""`read_weights`: one entry for everything that weights are read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.weights.containers import as_float32, is_own
from resnet_keras.weights.entries import RegistryEntry
from resnet_keras.weights.files import Weights, listed, near, read_tensors
from resnet_keras.weights.foreign import read_file
from resnet_keras.weights.published_files import read_entry
from resnet_keras.weights.registry import REGISTRY, resolve, weights_info
from resnet_keras.weights.sniff import first_bytes

# How the tensors of the network are told from those of the optimizer in a checkpoint.
MODEL_PREFIX = "model/"
# The one before the last is alone where a run died while the two changed places.
_CHECKPOINTS = tuple(f"checkpoints/{name}.safetensors" for name in ("best", "last", "previous"))


def read_weights(
    source: str | Path,
    *,
    like: str | None = None,
    allow_nonfinite: bool = False,
    allow_keras: bool = False,
) -> Weights:
    """Reads and verifies weights without building a network.

    A file of another program that is a copy of a published one is known by its digest, and gets
    the record of that. For any other the network is read from its names and shapes, and what
    they cannot show is assumed and said.

    Args:
        source: "imagenet" (for depth 50), a name of `list_weights()`, a run folder, whose best
            checkpoint is taken, or else its newest, or a file: `.safetensors` of this package, of
            torchvision or timm; `.h5` of keras.applications, KerasHub or classification_models;
            `.pth` or `.bin` of torch (which must be installed); or `.onnx`.
        like: Name of registered weights whose network, recipe and licence those of a file are,
            such as "resnet50.a1_in1k" for what was fine-tuned from them.
        allow_nonfinite: Whether NaN and infinity may occur.
        allow_keras: Whether the weights of a `.keras` archive of another program may be read;
            its model is not looked at.

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
    entry = None if like is None else weights_info(like)
    source = resolve(source)
    if isinstance(source, str) and source in REGISTRY:
        _refuse_like(entry, source)
        weights = read_entry(REGISTRY[source])
    else:
        path = _locate(Path(source))
        # What cannot be a file of anything is refused by its own sentence.
        first_bytes(path)
        if is_own(path):
            _refuse_like(entry, source)
            weights = _read_own(path)
        else:
            weights = read_file(path, entry, allow_keras=allow_keras)
    if not allow_nonfinite:
        _check_finite(weights, source)
    return weights


def _refuse_like(entry: RegistryEntry | None, source: str | Path) -> None:
    if entry is not None:
        raise WeightsError(
            f"{str(source)!r} says itself which network it is of; leave `like` out, which is for "
            "files of other programs."
        )


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
        f"{folder} is a folder without {' or '.join(_CHECKPOINTS[:2])}; name a run folder or a "
        "file."
    )


def _read_own(path: Path) -> Weights:
    tensors, record, _ = read_tensors(path)
    if any(name.startswith(MODEL_PREFIX) for name in tensors):
        tensors = {
            name.removeprefix(MODEL_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(MODEL_PREFIX)
        }
    return Weights(record, as_float32(tensors, path))


def _check_finite(weights: Weights, source: str | Path) -> None:
    bad = [name for name, tensor in weights.tensors.items() if not np.isfinite(tensor).all()]
    if bad:
        raise WeightsError(
            f"{source} holds numbers that are not finite (NaN or infinity) in {listed(bad)}; "
            "`read_weights(..., allow_nonfinite=True)` reads them all the same."
        )
