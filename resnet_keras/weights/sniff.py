"""What a file really is, whatever its name says: the first bytes decide."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from resnet_keras.errors import WeightsError

Container = Literal["hdf5", "zip", "pickle"]

# First bytes -> which container of tensors they begin, if any, and what they are, for a person.
_MAGIC: dict[bytes, tuple[Container | None, str]] = {
    b"\x89HDF": ("hdf5", "an HDF5 file (.h5)"),
    b"PK\x03\x04": ("zip", "a zip archive (a .keras or .pth file?)"),
    b"PK\x05\x06": ("zip", "a zip archive (a .keras or .pth file?)"),
    b"\x80\x02": ("pickle", "a Python pickle (an old .pth file?), which is never opened"),
    b"\x80\x04": (None, "a Python pickle, which is never opened"),
    b"\x1f\x8b": (None, "a gzip archive; unpack it first"),
    b"\x89PNG": (None, "a PNG picture"),
    b"\xff\xd8\xff": (None, "a JPEG picture"),
    b"%PDF": (None, "a PDF file"),
    b"\x93NUMPY": (None, "a NumPy file (.npy)"),
    b"version https://git-lfs": (None, "a Git LFS pointer; run `git lfs pull`"),
}
# safetensors itself refuses longer headers.
_MAX_HEADER = 100_000_000


def check_readable(path: Path, accepted: Collection[Container] = ()) -> None:
    """Refuses, each with its own sentence, what cannot be a file of tensors.

    Args:
        path: The file.
        accepted: The containers that it may be; what has no known first bytes always passes.

    Raises:
        WeightsError: If the path is missing, a folder, not readable, empty, or if its first
            bytes are those of a web page or of another kind of file.
    """
    start = first_bytes(path)
    if not start:
        raise WeightsError(f"{path} is empty (0 bytes); delete it and fetch it again.")
    kind = kind_of(start)
    if kind and container_of(start) not in accepted:
        raise WeightsError(f"{path} is no weights file but {kind}.")


def first_bytes(path: Path) -> bytes:
    """Returns the first 64 bytes of a file.

    Raises:
        WeightsError: If the path is missing, a folder or device, or not readable.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise WeightsError(f"{path} is a folder; name a weights file or a run folder.")
        if not stat.S_ISREG(mode):
            raise WeightsError(f"{path} is a device or pipe, not a file.")
        with path.open("rb") as file:
            return file.read(64)
    except PermissionError as error:
        raise WeightsError(f"{path} may not be read; check its permissions.") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error


def container_of(start: bytes) -> Container | None:
    """Returns the container of tensors that the first bytes of a file begin, if any."""
    return _magic(start)[0]


def kind_of(start: bytes) -> str:
    """Returns what the first bytes of a file say that it is, or nothing if they say nothing."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        return "a web page (HTML), as a login or error page saved under its name; fetch it again"
    if text.startswith((b"{", b"[")):
        return "a JSON text"
    return _magic(start)[1]


def _magic(start: bytes) -> tuple[Container | None, str]:
    length = int.from_bytes(start[:8], "little")
    # The length of a safetensors header can begin like a pickle.
    if length <= _MAX_HEADER and start[8:9] in (b"", b"{"):
        return None, ""
    found = (meaning for magic, meaning in _MAGIC.items() if start.startswith(magic))
    return next(found, (None, ""))


def truncation(path: Path) -> str:
    """Returns "N of M bytes" if a safetensors file is shorter than its header says, or nothing."""
    size = os.path.getsize(path)
    with path.open("rb") as file:
        start = file.read(9)
        length = struct.unpack("<Q", start[:8].ljust(8, b"\0"))[0]
        if len(start) < 9:
            return f"{size} bytes are less than any header"
        if start[8:] != b"{" or length > _MAX_HEADER:
            return ""
        if size < 8 + length:
            return f"{size} of at least {8 + length} bytes"
        file.seek(8)
        header = file.read(length)
    wanted = 8 + length + _data_length(header)
    return f"{size} of {wanted} bytes" if size < wanted else ""


def _data_length(header: bytes) -> int:
    """Returns how many bytes of tensors a header promises, 0 if it cannot be understood."""
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        return max((int(end) for end in ends), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return 0
