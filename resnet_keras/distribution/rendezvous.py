"""A bounded wait until all workers are there: TensorFlow itself would wait for ever.

The chief listens on its port of TF_CONFIG, each worker connects and says who it is in one line of
JSON, and the chief answers all of them at once. Then all connections are gone, and TensorFlow
opens its own on the same ports.
"""

from __future__ import annotations

import errno
import os
import socket
import time

from resnet_keras.distribution.cluster import VARIABLE, Cluster, split_address
from resnet_keras.distribution.meeting import (
    GO,
    MESSAGE,
    RESET,
    Meeting,
    digest,
    from_line,
    names,
    to_line,
)
from resnet_keras.errors import WorkersError

_ATTEMPT_SECONDS = 5.0
_PAUSE_SECONDS = 0.2


def meet(cluster: Cluster, *, seconds: float) -> None:
    """Returns when all processes of the cluster are there; all ports are free again then.

    Args:
        cluster: The processes that train together, two at least.
        seconds: How long the chief waits for the workers, and each worker for the chief; a worker
            that has found the chief waits as long as the chief does.

    Raises:
        WorkersError: If the port of this process is taken, if a worker or the chief never came,
            or if two processes have different clusters or the same index.
    """
    with _listen(cluster) as listener:
        if cluster.is_chief:
            with Meeting(cluster, listener) as meeting:
                meeting.wait(seconds=seconds)
    if not cluster.is_chief:
        _join(cluster, seconds)


def open_port(port: int) -> socket.socket:
    """Returns a socket that listens on a port of all interfaces; 0 is any free port.

    Raises:
        OSError: If the port is taken, or may not be opened.
    """
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            # The kernel of a container may know IPv6 without an address of it.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port))


def _listen(cluster: Cluster) -> socket.socket:
    _, port = split_address(cluster.addresses[cluster.index])
    try:
        # Without SO_REUSEPORT: gRPC sets it, and would share the port with another server.
        return open_port(port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "taken by another process" if taken else f"closed ({os.strerror(error.errno or 0)})"
        raise WorkersError(
            f"The port of {cluster.name(cluster.index)} must be free on its machine, but {port} is "
            f"{why}: {'end that process, or ' if taken else ''}choose another port in {VARIABLE} "
            "of all processes."
        ) from error


def _join(cluster: Cluster, seconds: float) -> None:
    """Asks the chief until it answers."""
    start = time.monotonic()
    while True:
        answer, why = None, "what listens there is another program, or trains already"
        try:
            answer = _ask(cluster, seconds)
        except (OSError, UnicodeError) as error:  # the latter for names that can be no host's
            why = getattr(error, "strerror", None) or str(error)
        if answer == GO:
            return
        if answer is not None:
            raise WorkersError(answer)
        if (waited := time.monotonic() - start) >= seconds:
            raise WorkersError(
                f"{names(cluster, [0])} never answered within {waited:.0f} seconds ({why}): start "
                f"it, see its log for an error, and check its address in {VARIABLE}."
            )
        time.sleep(_PAUSE_SECONDS)


def _ask(cluster: Cluster, seconds: float) -> str | None:
    """Returns the chief's answer, or None if it was not the chief that answered."""
    chief = split_address(cluster.addresses[0])
    with socket.create_connection(chief, timeout=_ATTEMPT_SECONDS) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        # A port of this machine on which nobody listens may become this end's own.
        if connection.getsockname() == connection.getpeername():
            return None
        connection.sendall(to_line(index=cluster.index, cluster=digest(cluster)))
        line = _read_line(connection, seconds + _ATTEMPT_SECONDS)
    values = from_line(line, answer=str)
    if values is None:
        return None
    return "".join(sign if sign.isprintable() else " " for sign in values["answer"])


def _read_line(connection: socket.socket, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n") and len(line) <= MESSAGE:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(MESSAGE)
        if not data:
            raise ConnectionError("it closed the connection")
        line += data
    return line
