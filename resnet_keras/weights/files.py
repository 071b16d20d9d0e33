"""The project's own files: safetensors whose metadata say what the tensors are, with digests."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from resnet_keras.atomic import write_atomically
from resnet_keras.errors import WeightsError
from resnet_keras.records import Record
from resnet_keras.weights.sniff import check_readable, truncation

FORMAT = "resnet_keras"
FORMAT_VERSION = "1"
# Names of the safetensors format, by the name of the numpy type.
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a network and the record that says what they are.

    Args:
        record: Network, recipe, classes and provenance.
        tensors: float32 arrays by `"layer/variable"`, such as `"stage3_block1_2_bn/gamma"`.
    """

    record: Record
    tensors: dict[str, np.ndarray]

    @property
    def num_classes(self) -> int | None:
        """Number of logits of the head, None if there is no head."""
        bias = self.tensors.get("logits/bias")
        return None if bias is None else len(bias)


def write_tensors(
    path: str | Path,
    tensors: dict[str, np.ndarray],
    *,
    record: Record,
    extra: dict[str, str] | None = None,
) -> Path:
    """Writes tensors and their record to one safetensors file, atomically and reproducibly.

    Equal arguments give equal bytes. Whatever was at `path` stays until the new file is complete
    and on the disk.

    Args:
        path: The file to write; its folder is made if missing.
        tensors: Arrays by name, of any type that safetensors has.
        record: What the tensors are.
        extra: Further text to keep with them.

    Returns:
        The path of the file.

    Raises:
        WeightsError: If the file cannot be written, for instance on a full disk.
    """
    # The widest types first, so that every tensor starts at a multiple of its own item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    arrays = {
        name: np.asarray(tensors[name], tensors[name].dtype.newbyteorder("="), order="C")
        for name in names
    }
    digests = {name: _digest(array) for name, array in arrays.items()}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "record": json.dumps(record.to_dict(), sort_keys=True),
        "extra": json.dumps(extra or {}, sort_keys=True),
        "sha256": json.dumps(digests, sort_keys=True),
    }
    metadata["sha256_metadata"] = _metadata_digest(metadata, arrays)
    parts = (array.reshape(-1).view(np.uint8).data for array in arrays.values())
    return write_atomically(Path(path), [_header(metadata, arrays), *parts], WeightsError)


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], Record, dict[str, str]]:
    """Reads a file that `write_tensors` wrote and verifies every byte of it.

    Args:
        path: The file to read.

    Returns:
        The tensors by name, their record, and the further text kept with them.

    Raises:
        WeightsError: If the file is missing, truncated, altered or of another kind.
    """
    path = Path(path)
    check_readable(path)
    tensors, metadata = read_container(path)
    _check_metadata(path, metadata, tensors)
    try:
        digests, extra = json.loads(metadata["sha256"]), json.loads(metadata["extra"])
        record = Record.from_dict(json.loads(metadata["record"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"{path} has metadata that this release cannot read: {error}."
        ) from error
    altered = [name for name, array in tensors.items() if digests.get(name) != _digest(array)]
    if altered:
        raise WeightsError(f"{path} was altered: the sha256 of {listed(altered)} does not match.")
    return tensors, record, extra


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(names: Iterable[str], *, limit: int = 10) -> str:
    """Returns the sorted names as one line, shortened behind `limit` of them."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


def near(name: str, choices: Iterable[str]) -> str:
    """Returns a question that names the choices nearest to a name, or nothing."""
    matches = difflib.get_close_matches(name, list(choices), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def _header(metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        dtype = _DTYPES[array.dtype.name]
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def read_container(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the tensors and the metadata of any safetensors file.

    Raises:
        WeightsError: If the file is truncated or damaged.
    """
    if cause := truncation(path):
        raise WeightsError(f"{path} is truncated: {cause}; copy or download it again.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            # safetensors has compared every shape with the bytes of the file by now.
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file: {error}.") from error


def _check_metadata(path: Path, metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> None:
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is a safetensors file of another program: its metadata lack "
            f"format={FORMAT!r}; only files written by `save_weights` say which network they are."
        )
    if metadata.get("format_version") != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {metadata.get('format_version')!r} and this release reads "
            f"{FORMAT_VERSION!r}; update resnet_keras."
        )
    if metadata.get("sha256_metadata") != _metadata_digest(metadata, tensors):
        raise WeightsError(f"{path} was altered: the sha256 of its metadata does not match.")


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _metadata_digest(metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    """Returns the sha256 over the metadata and over the types and shapes of the tensors."""
    texts = {key: value for key, value in metadata.items() if key != "sha256_metadata"}
    shapes = {name: [array.dtype.name, *array.shape] for name, array in arrays.items()}
    return hashlib.sha256(json.dumps([texts, shapes], sort_keys=True).encode()).hexdigest()
