"""Copies what a process writes to a file, and all but its errors to the screen, as it comes."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import termios
import threading
import tty
from collections.abc import Mapping
from pathlib import Path

_CHUNK = 1 << 16
ERROR = "error:"  # begins the sentence with which a process ends


def copied(screen: int, log: Path) -> tuple[int, threading.Thread]:
    """Returns where a process may write, and the thread that copies it to screen and log.

    Errors go to the log alone: where one worker is lost all fail, and one sentence tells why.

    Args:
        screen: File descriptor; if it is a terminal, the process sees one as well.
        log: File to whose end is written; it must exist.

    Returns:
        A file descriptor for the process, which the caller closes, and a thread that has started
        and ends when all have closed it.
    """
    if os.isatty(screen):
        source, target = pty.openpty()
        tty.setraw(target)  # bytes pass as they are: the terminal itself makes lines of them
        with contextlib.suppress(termios.error):
            termios.tcsetwinsize(target, termios.tcgetwinsize(screen))
    else:
        source, target = os.pipe()
    thread = threading.Thread(target=_copy, args=(source, screen, log), daemon=True)
    thread.start()
    return target, thread


def _copy(source: int, screen: int, log: Path) -> None:
    """Copies until the end; a full disk or a closed screen must not stop the process.

    The log takes whole lines, as another thread may write to it as well.
    """
    targets, line = {screen, kept := os.open(log, os.O_WRONLY | os.O_APPEND)}, b""
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal is an error
        while data := os.read(source, _CHUNK):
            seen = _without_errors(data, line)
            whole, line = _lines(line + data)
            _write_to(targets, {screen: seen, kept: whole})
    _write_to(targets, {kept: line})
    os.close(kept)
    os.close(source)


def _lines(data: bytes) -> tuple[bytes, bytes]:
    """Returns what ends with a line, as every look of a progress bar does, and the rest."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    return data[:end], data[end:]


def _without_errors(data: bytes, begun: bytes) -> bytes:
    """Returns what is no part of an error.

    Args:
        data: What comes.
        begun: What is there of its first line already.
    """
    lines = data.splitlines(keepends=True)
    starts = [begun + lines[0], *lines[1:]]
    shown = (not start.startswith(ERROR.encode()) for start in starts)
    return b"".join(itertools.compress(lines, shown))


def _write_to(targets: set[int], parts: Mapping[int, bytes]) -> None:
    """Writes to files that can be written to; one that no longer can is written to no more."""
    for target in targets & parts.keys():
        try:
            _write(target, parts[target])
        except OSError:
            targets.discard(target)


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]
