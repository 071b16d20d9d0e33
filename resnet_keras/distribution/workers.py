"""The processes that share a run: which of them this is, and what they tell each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


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


ALONE = Workers()
