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

    Args:
        pictures: Number of pictures.
        batch_size: Pictures a step, of all replicas together.
        replicas: Number of replicas.
        numbers: Those of this process.
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
        return -(-self.batch_size // self.replicas)

    @property
    def static_size(self) -> int | None:
        """Pictures that this process sees in a step; None if that changes."""
        fixed = self.static or not self.pictures % self.batch_size or self.drop_remainder
        return self.replica_size * len(self.numbers) if fixed else None

    @property
    def _fills(self) -> bool:
        return self.replicas > 1 or self.static

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
        short = (step + 1) * self.batch_size > self.pictures
        return self._fills and (short or self.batch_size % self.replicas > 0)

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
            Indices of pictures, as many for each replica, with -1 for what fills its share;
            without any such where one replica sees all and its shape may change.
        """
        if not self._fills:
            return row[row >= 0]
        shortest = -(-int((row >= 0).sum()) // self.replicas)
        size = self.replica_size if self.static else shortest
        shares = [row[number :: self.replicas][:size] for number in self.numbers]
        return np.concatenate(
            [np.pad(share, (0, size - len(share)), constant_values=-1) for share in shares]
        )
