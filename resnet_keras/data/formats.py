"""Which files are pictures: by content first, by extension only to say what was expected."""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
import warnings
from collections.abc import Callable
from typing import IO

from PIL import Image

# What photographs and scans come in. Pillow's other readers are left out on purpose: EPS runs
# Ghostscript, and TGA has no signature, so that any file may pass for one.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI",
    "SGI", "TIFF", "WEBP",
)  # fmt: skip
HEIF_EXTENSIONS = (".heic", ".heif", ".hif")
# MPO is a JPEG with further pictures behind it, DIB a BMP without its file header.
SAME_EXTENSION = {"MPO": "JPEG", "DIB": "BMP"}
HEAD_BYTES = 512
SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "is an HTML page, not a picture": lambda head: head.startswith((b"<!doctype html", b"<html")),
    "is an SVG drawing, not a picture; convert it to PNG": lambda head: b"<svg" in head,
    "is a Git LFS pointer, not the picture itself; run `git lfs pull`": lambda head: (
        head.startswith(b"version https://git-lfs")
    ),
    "is a PDF document, not a picture": lambda head: head.startswith(b"%pdf"),
    "is a HEIC picture, which needs `pip install pillow-heif`": lambda head: (
        head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
    ),
}


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Returns the formats that this installation reads; HEIF where `pillow-heif` is installed."""
    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in (*FORMATS, "HEIF") if name in Image.OPEN)


@functools.cache
def picture_extensions() -> dict[str, str]:
    """Returns each extension, in lower case with its dot, and the format that it promises."""
    known = readable_formats()
    table = {ext: name for ext, name in Image.registered_extensions().items() if name in known}
    return {**dict.fromkeys(HEIF_EXTENSIONS, "HEIF"), **table}


def has_other_extension(extension: str, picture_format: str) -> bool:
    """Whether a file's extension promises something else than the format it holds."""
    promised = picture_extensions().get(extension.lower())
    actual = SAME_EXTENSION.get(picture_format, picture_format)
    return SAME_EXTENSION.get(promised or "", promised) != actual


def is_picture(file: IO[bytes]) -> bool:
    """Whether the file begins like a picture; reads the header only."""
    try:
        with quiet_pillow, Image.open(file, formats=readable_formats()):
            return True
    except Exception:
        return False


def why_not_a_picture(head: bytes) -> str:
    """Returns what a file is that Pillow does not know, from its first bytes."""
    if not head:
        return "is empty (zero bytes)"
    for what, matches in SIGNATURES.items():
        if matches(head.lstrip().lower()):
            return what
    return "is a text file, not a picture" if _is_text(head) else "is no picture that can be read"


def _is_text(head: bytes) -> bool:
    # A head may end within a character of up to four bytes.
    text = head.decode("utf-8", "replace").rstrip("\ufffd")
    return "\ufffd" not in text and all(char.isprintable() or char.isspace() for char in text)


class _Quiet(contextlib.AbstractContextManager["_Quiet"]):
    """Silences Pillow's warnings while at least one thread is inside.

    `warnings.catch_warnings` changes the whole process and is not made for threads: the first
    to come in opens it and the last to leave closes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Quiet:
        with self._lock:
            if self._inside == 0:
                self._stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._stack.close()


quiet_pillow = _Quiet()
"""Keeps Pillow's warnings from the user; what they warn of is checked here."""
