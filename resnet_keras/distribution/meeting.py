"""The chief's side of a rendezvous: who has come, who is missing, and one answer for all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any

from resnet_keras.distribution.cluster import VARIABLE, Cluster
from resnet_keras.errors import WorkersError

GO = "go"
MESSAGE = 4096  # bytes of a line at most
# Closing resets the connection: none stays behind in TIME_WAIT, which would hold the port.
RESET = struct.pack("ii", 1, 0)
_HELLO_SECONDS = 10.0  # until a connection that does not say who it is gets closed
_GOODBYE_SECONDS = 10.0  # until those who were answered have closed
_STRANGERS = 256  # connections of others than workers
_NAMED = 5  # missing workers that a sentence names


def to_line(**values: Any) -> bytes:
    """Returns a message."""
    return json.dumps(values).encode() + b"\n"


def from_line(line: bytes, **kinds: type) -> dict[str, Any] | None:
    """Returns what a message holds, or None if a stranger sent it."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(values, dict) and all(type(values.get(key)) is kinds[key] for key in kinds):
        return values
    return None


def digest(cluster: Cluster) -> str:
    """Returns what two processes share if their clusters are the same."""
    return hashlib.sha256(json.dumps(cluster.addresses).encode()).hexdigest()


def names(cluster: Cluster, indices: Iterable[int]) -> str:
    """Returns the names of processes as the beginning of a sentence."""
    listed = [cluster.name(index) for index in sorted(indices)]
    shown = listed[:_NAMED]
    if len(listed) > _NAMED:
        shown.append(f"{len(listed) - _NAMED} more")
    text = f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
    return text[0].upper() + text[1:]


class Meeting:
    """Waits on a listening socket until all workers of a cluster have said who they are.

    Args:
        cluster: The processes that train together; this one is their chief.
        listener: Socket that listens on the chief's port; it is closed before the answer.
    """

    def __init__(self, cluster: Cluster, listener: socket.socket) -> None:
        self._cluster = cluster
        self._listener = listener
        self._since: dict[socket.socket, float] = {}
        self._received: dict[socket.socket, bytes] = {}
        self._guests: dict[socket.socket, int] = {}
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *error: object) -> None:
        for connection in list(self._received):
            self._close(connection)
        self._selector.close()

    def wait(self, *, seconds: float) -> None:
        """Waits for all, and tells those who came how it went.

        Raises:
            WorkersError: If not all came, or one that came does not belong here.
        """
        try:
            self._gather(seconds)
        except WorkersError as error:
            self._answer(str(error))
            raise
        if lost := self._answer(GO):
            raise WorkersError(
                f"{names(self._cluster, lost)} joined and was lost at once: see its log, and start "
                "all workers again."
            )

    def _gather(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while missing := set(range(1, self._cluster.count)) - set(self._guests.values()):
            if (left := deadline - time.monotonic()) <= 0:
                raise WorkersError(
                    f"{names(self._cluster, missing)} never joined within {seconds:g} seconds: "
                    "start what is missing, see its log for an error, and check that it can reach "
                    f"{self._cluster.name(0)}."
                )
            self._serve(min(left, 1.0))
            self._close_silent()

    def _serve(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._received:
                self._receive(key.fileobj)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again, or this process may open no more
            time.sleep(0.01)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._received[connection] = b""
        self._since[connection] = time.monotonic()
        self._selector.register(connection, selectors.EVENT_READ)
        if len(self._received) > self._cluster.count + _STRANGERS:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        del self._received[connection], self._since[connection]
        self._guests.pop(connection, None)

    def _close_silent(self) -> None:
        latest = time.monotonic() - _HELLO_SECONDS
        for connection, since in list(self._since.items()):
            if since < latest and connection not in self._guests:
                self._close(connection)

    def _receive(self, connection: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = connection.recv(MESSAGE)
        line, end, rest = (self._received[connection] + data).partition(b"\n")
        # A worker sends one line and waits.
        if not data or rest or len(line) > MESSAGE or connection in self._guests:
            self._close(connection)
        elif end:
            self._welcome(connection, line)
        else:
            self._received[connection] = line

    def _welcome(self, connection: socket.socket, line: bytes) -> None:
        hello = from_line(line, index=int, cluster=str)
        if hello is None or hello["index"] < 1:
            self._close(connection)
            return
        index = hello["index"]
        for other in [guest for guest, known in self._guests.items() if known == index]:
            if _has_gone(other):
                self._close(other)
        twice = index in self._guests.values()
        self._guests[connection] = index
        if hello["cluster"] != digest(self._cluster):
            raise WorkersError(
                f"{VARIABLE} of worker {index}, which called from {connection.getpeername()[0]}, "
                f"lists other addresses than that of {self._cluster.name(0)}: give all processes "
                "the same cluster."
            )
        if twice:
            raise WorkersError(
                f"Two processes say in {VARIABLE} that they are {self._cluster.name(index)}: give "
                "each process its own index."
            )

    def _answer(self, answer: str) -> set[int]:
        """Tells all who came; returns those who have not taken it, by closing, in time."""
        self._selector.unregister(self._listener)
        self._listener.close()
        for connection in list(self._received):
            if connection not in self._guests:
                self._close(connection)
        for guest in self._guests:
            with contextlib.suppress(OSError):
                guest.sendall(to_line(answer=answer))
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while self._guests and (left := deadline - time.monotonic()) > 0:
            self._serve(left)
        return set(self._guests.values())


def _has_gone(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
