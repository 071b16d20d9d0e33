"""Which pictures make up each step, and which of them each replica sees."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sharing:
    """How the pictures of a part become batches, and these the shares of replicas.

    A batch has places 0, 1, ... Picture `i` always has the place `i % batch_size`, and replica
    `r` always takes the places that leave the remainder `r` when divided by the number of
    replicas. So every replica sees the same pictures in each epoch, and their order, which is
    drawn for each place by itself, is the same for any number of replicas.

    A share can consist of groups, one after the other. Those of all replicas deal out the places
    in the same way, so they are the same for any number of replicas that divides theirs.

    Args:
        pictures: Number of pictures.
        batch_size: Pictures a step, of all replicas together.
        replicas: Number of replicas.
        numbers: Those of this process.
        groups: Groups of pictures, of one size, in the share of each replica; None for one.
        drop_remainder: Whether an epoch leaves out its last, short batch; as the order changes,
            it is other pictures in each.
        static: Whether short batches are filled with zeros, so that all steps have one shape,
            also where there is but one replica.

    Raises:
        ValueError: If there would be no step.
    """

    pictures: int
    batch_size: int
    replicas: int = 1
    numbers: range = range(1)
    groups: int | None = None
    drop_remainder: bool = False
    static: bool = False

    def __post_init__(self) -> None:
        if self.drop_remainder and self.pictures < self.batch_size:
            raise ValueError(
                "With `drop_remainder` there must be as many pictures as a batch has. Received: "
                f"{self.pictures} pictures, batch_size={self.batch_size}"
            )

    @property
    def steps(self) -> int:
        """Number of steps of an epoch."""
        whole, rest = divmod(self.pictures, self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder)

    @property
    def replica_size(self) -> int:
        """Pictures that a replica sees in a step, zeros that fill its share among them."""
        own = self.groups or 1
        return -(-self.batch_size // (self.replicas * own)) * own

    @property
    def static_size(self) -> int | None:
        """Pictures that this process sees in a step; None if that changes."""
        fixed = self.static or not self.pictures % self.batch_size or self.drop_remainder
        return self.replica_size * len(self.numbers) if fixed else None

    @property
    def _fills(self) -> bool:
        return self._all_groups > 1 or self.static

    @property
    def _all_groups(self) -> int:
        return self.replicas * (self.groups or 1)

    @property
    def owned(self) -> np.ndarray:
        """Which pictures this process sees, bool `(pictures,)`."""
        replica = np.arange(self.pictures) % self.batch_size % self.replicas
        owned: np.ndarray = np.isin(replica, self.numbers)
        return owned

    def count(self, first: int, last: int) -> int:
        """Returns how many pictures the steps from `first` to before `last` see together."""
        return min(last * self.batch_size, self.pictures) - first * self.batch_size

    def fills(self, step: int) -> bool:
        """Returns whether zeros fill the share of any replica in a step."""
        count = self.count(step, step + 1)
        short = self.static and count < self.batch_size
        return self._fills and (short or count % self._all_groups > 0)

    def order(self, seed: tuple[int, ...]) -> np.ndarray:
        """Returns the pictures of each step, `(steps, batch_size)`; -1 where there is none."""
        rng = np.random.default_rng(seed)
        whole, rest = divmod(self.pictures, self.batch_size)
        order = np.full((whole + (rest > 0), self.batch_size), -1)
        order.ravel()[: self.pictures] = np.arange(self.pictures)
        order[:, :rest] = rng.permuted(order[:, :rest], axis=0)
        order[:whole, rest:] = rng.permuted(order[:whole, rest:], axis=0)
        return order[: self.steps]

    def own(self, row: np.ndarray) -> np.ndarray:
        """Returns what the replicas of this process see of a step, one after the other.

        Args:
            row: A row of `order`.

        Returns:
            Indices of pictures, as many for each group, with -1 for what fills it; without any
            such where one replica sees all, as one group, and its shape may change.
        """
        if not self._fills:
            return row[row >= 0]
        groups = self._all_groups
        count = self.batch_size if self.static else int((row >= 0).sum())
        size = -(-count // groups)
        starts = [start for own in self.numbers for start in range(own, groups, self.replicas)]
        shares = [row[start::groups][:size] for start in starts]
        return np.concatenate(
            [np.pad(share, (0, size - len(share)), constant_values=-1) for share in shares]
        )
