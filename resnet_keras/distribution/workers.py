"""The processes that share a run: which of them this is, and what they tell each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from resnet_keras.errors import ResNetKerasError


def _only_own(value: bytes) -> list[bytes]:
    return [value]


@dataclasses.dataclass(frozen=True)
class Workers:
    """The processes of a run; all of them reach each exchange, in the same order.

    Args:
        index: Number of this process, from 0.
        count: Number of processes.
        gather: Returns what each process gave, in the order of their numbers.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[bytes], list[bytes]] = _only_own

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what all share."""
        return self.index == 0

    def broadcast(self, value: bytes = b"") -> bytes:
        """Returns what the chief gave; all wait for each other."""
        return self.gather(value if self.is_chief else b"")[0]

    def lead(self, work: Callable[[], bytes]) -> bytes:
        """Returns what the work of the chief returned; the others wait, and do none.

        Raises:
            ResNetKerasError: In all processes, if the chief's work raised one.
        """
        if self.count == 1:
            return work()
        answer, failure = b"", None
        if self.is_chief:
            try:
                answer = b" " + work()
            except ResNetKerasError as error:
                answer, failure = f"{type(error).__name__} {error}".encode(), error
        kind, _, text = self.broadcast(answer).partition(b" ")
        if failure is not None:
            raise failure
        if kind:
            kinds = {known.__name__: known for known in ResNetKerasError.__subclasses__()}
            raise kinds[kind.decode()](text.decode())
        return text

    def share(self, count: int) -> np.ndarray:
        """Returns which of `count` things this process works on: every `self.count`-th."""
        return np.arange(self.index, count, self.count)

    def gather_rows(self, rows: np.ndarray, count: int) -> np.ndarray:
        """Returns what all processes found out about `count` things, each about its `share`.

        Args:
            rows: float32, one row for each of the own things, `(k, columns)`.
            count: Number of all things.

        Returns:
            `(count, columns)`, the same in all processes.
        """
        if self.count == 1:
            return rows
        parts = [np.frombuffer(part, "<f4") for part in self.gather(rows.astype("<f4").tobytes())]
        columns = sum(map(len, parts)) // count
        whole = np.empty((count, columns), np.float32)
        for index, part in enumerate(parts):
            whole[index :: self.count] = part.reshape(-1, columns)
        return whole


ALONE = Workers()
