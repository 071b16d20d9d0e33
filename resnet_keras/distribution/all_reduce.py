"""Sums over the processes of one machine, through memory that all of them see.

TensorFlow's own exchange goes through gRPC also where the processes share a machine, which copies
each array half a dozen times.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import socket
import struct
import sys
from collections.abc import Sequence

import numpy as np

from resnet_keras.distribution.workers import Workers

# What TensorFlow wants of an array that it takes without a copy, and a line of the CPU's cache.
_ALIGNMENT = 64
# The number of an exchange, and its bytes: processes that disagree do not do the same work.
_MESSAGE = struct.Struct("<QQ")
_GONE = "another process closed the connection"
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class AllReduce:
    """Sums arrays over processes; all of them reach each sum, in the same order.

    Each process writes what it has into a line of its own in the shared memory, sums up one part
    of all lines, and takes a copy of the sums. Two meetings lie between: no process reads what is
    not written yet, nor writes what is not read yet. The order of sums is that of `tree_sum`, so
    all get the same bits.

    Args:
        index: Number of this process, from 0.
        count: Number of processes.
        peers: Connections to the others: that of the first process to each other one in their
            order, that of any other to the first.
    """

    def __init__(self, index: int, count: int, peers: Sequence[socket.socket]) -> None:
        self._index, self._count, self._peers = index, count, list(peers)
        self._number = 0
        self._lines = np.empty((count + 1, 0), np.uint8)
        self.is_broken = False

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Returns the sums over all processes of arrays of one type.

        Raises:
            ConnectionError: If another process is gone, or does not do the same work.
        """
        try:
            return self._sums(arrays)
        except OSError:
            self.is_broken = True
            # Whoever waits for this process learns of it.
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the other processes."""
        for peer in self._peers:
            peer.close()

    def _sums(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._number += 1
        starts, size = _places(arrays)
        dtype = arrays[0].dtype
        if size > self._lines.shape[1]:
            self._grow(size)
        *lines, sums = self._lines[:, :size].view(dtype)
        for array, place in zip(arrays, _views(lines[self._index], starts, arrays), strict=True):
            np.copyto(place, array)
        self._meet(size)
        part = self._part(len(sums), dtype.itemsize)
        with np.errstate(all="ignore"):  # infinity is the affair of those who use the sums
            _sum_up([line[part] for line in lines], sums[part])
        self._meet(size)
        own = _aligned(size).view(dtype)
        np.copyto(own, sums)
        return _views(own, starts, arrays)

    def _part(self, length: int, itemsize: int) -> slice:
        """Returns which elements of a line this process sums up."""
        step = _ALIGNMENT // itemsize
        size = -(-length // (self._count * step)) * step
        return slice(self._index * size, (self._index + 1) * size)

    def _meet(self, size: int) -> None:
        """Returns once all processes are here."""
        said = _MESSAGE.pack(self._number, size)
        if self._index:
            self._peers[0].sendall(said)
        for peer in self._peers:
            self._check(_received(peer), said)
        if not self._index:
            for peer in self._peers:
                peer.sendall(said)

    def _check(self, heard: bytes, said: bytes) -> None:
        if heard != said:
            (number, size), (own, own_size) = _MESSAGE.unpack(heard), _MESSAGE.unpack(said)
            raise ConnectionError(
                f"another process sums {size} bytes in exchange {number}, this one {own_size} "
                f"bytes in exchange {own}"
            )

    def _grow(self, size: int) -> None:
        """Takes memory for longer lines, which is gone with the last process that has it."""
        self._meet(size)
        whole = (self._count + 1) * size
        descriptor = self._taken() if self._index else os.memfd_create("resnet_keras")
        try:
            if not self._index:
                os.ftruncate(descriptor, whole)
                for peer in self._peers:
                    socket.send_fds(peer, [b"."], [descriptor])
            memory = mmap.mmap(descriptor, whole)
        finally:
            os.close(descriptor)
        self._lines = np.frombuffer(memory, np.uint8).reshape(self._count + 1, size)

    def _taken(self) -> int:
        """Returns the descriptor of the memory that the first process made."""
        _, descriptors, *_ = socket.recv_fds(self._peers[0], 1, 1)
        if not descriptors:
            raise ConnectionError(_GONE)
        return descriptors[0]


def _sum_up(lines: Sequence[np.ndarray], sums: np.ndarray) -> None:
    """Puts the sum of at least two lines, as a binary tree, into `sums`; uses up the lines."""
    while len(lines) > 2:
        half = -(-len(lines) // 2)
        for first, second in zip(lines[:half], lines[half:], strict=False):
            first += second
        lines = lines[:half]
    np.add(lines[0], lines[1], out=sums)


def _places(arrays: Sequence[np.ndarray]) -> tuple[list[int], int]:
    """Returns where arrays begin in a line, in bytes, and where the last one ends."""
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
    ends = np.cumsum(sizes).tolist()
    return [end - size for end, size in zip(ends, sizes, strict=True)], ends[-1]


def _views(
    line: np.ndarray, starts: Sequence[int], arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Returns the places of arrays in a line, in the shapes of these."""
    places = [start // line.itemsize for start in starts]
    return [
        line[place : place + array.size].reshape(array.shape)
        for place, array in zip(places, arrays, strict=True)
    ]


def _aligned(size: int) -> np.ndarray:
    whole = np.empty(size + _ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % _ALIGNMENT
    return whole[start : start + size]


def _received(peer: socket.socket) -> bytes:
    heard = peer.recv(_MESSAGE.size, socket.MSG_WAITALL)
    if len(heard) < _MESSAGE.size:
        raise ConnectionError(_GONE)
    return heard


def all_reduce_of(workers: Workers, *, able: bool) -> AllReduce | None:
    """Returns the sums of workers that share one machine; None if they do not, or one is not able.

    Args:
        workers: The processes; all of them call this.
        able: Whether this one wants to.
    """
    able = able and sys.platform == "linux" and hasattr(os, "memfd_create")
    with contextlib.ExitStack() as stack:
        # An abstract name: it is no file, so nothing is left behind, and no other machine has it.
        name = f"\0resnet_keras-{secrets.token_hex(16)}".encode() if able else b""
        own = stack.enter_context(socket.socket(socket.AF_UNIX)) if able else None
        if own and workers.is_chief:
            own.bind(name)
            own.listen(workers.count)
        name = workers.broadcast(name)
        reached = own and name and (workers.is_chief or _reaches(own, name, workers.index))
        if not all(workers.gather(b"yes" if reached else b"")) or own is None:
            return None
        if not workers.is_chief:
            stack.pop_all()
            return AllReduce(workers.index, workers.count, [own])
        return AllReduce(0, workers.count, _guests(own, workers.count - 1))


def _reaches(own: socket.socket, name: bytes, index: int) -> bool:
    with contextlib.suppress(OSError):
        own.connect(name)
        own.sendall(_MESSAGE.pack(index, 0))
        return True
    return False


def _guests(listener: socket.socket, count: int) -> list[socket.socket]:
    """Returns the connections of the others, which are made already, in their order."""
    guests: dict[int, socket.socket] = {}
    while len(guests) < count:
        guest, _ = listener.accept()
        facts = guest.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(facts)[1] == os.getuid():
            guests[_MESSAGE.unpack(_received(guest))[0]] = guest
        else:
            guest.close()
    return [guests[index] for index in sorted(guests)]
