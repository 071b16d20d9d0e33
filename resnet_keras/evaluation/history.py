"""The history of a run, read for drawing: panels, phases and the best epoch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

Row = Mapping[str, float | int | str]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One metric over the epochs, in training and in validation where it was measured."""

    title: str
    training: np.ndarray | None
    validation: np.ndarray | None
    logarithmic: bool = False


class History:
    """The epochs of all phases, one after the other.

    Args:
        rows: One row an epoch, see `write_report`.
        monitor: Metric of the validation part whose best value marks the best epoch.
    """

    def __init__(self, rows: Sequence[Row], *, monitor: str = "accuracy") -> None:
        self._rows, self._monitor = list(rows), monitor

    def __len__(self) -> int:
        return len(self._rows)

    def values(self, name: str) -> np.ndarray | None:
        """Returns a column with NaN where it has no number; None if it has none at all."""
        # CSV gives back nothing as an empty text.
        found = [row.get(name) for row in self._rows]
        column = np.array([np.nan if value in (None, "") else float(value) for value in found])
        return column if np.isfinite(column).any() else None

    @property
    def best(self) -> int | None:
        """Index of the best epoch, of equals the one with the lower loss; None without any."""
        column, loss = self.values(f"val_{self._monitor}"), self.values("val_loss")
        if column is None or loss is None:
            return None
        best = -column if self._monitor == "loss" else column
        ranks = [(score, -cost) for score, cost in zip(best, loss, strict=True)]
        known = [index for index, rank in enumerate(ranks) if not np.isnan(rank).any()]
        return max(known, key=ranks.__getitem__, default=None)

    @property
    def borders(self) -> list[int]:
        """Index of the first epoch of each phase but the first."""
        keys = [(row.get("phase_index"), row.get("phase")) for row in self._rows]
        return [here + 1 for here, (old, new) in enumerate(itertools.pairwise(keys)) if old != new]

    @property
    def phase_names(self) -> list[str]:
        """Name of each phase."""
        return [str(self._rows[start].get("phase", "")) for start in [0, *self.borders]]

    def panels(self) -> list[Panel]:
        """Returns loss, accuracy, the monitored metric if it is another, and learning rate."""
        names = dict.fromkeys(["loss", "accuracy", self._monitor])
        panels = [self._panel(name) for name in names]
        rate = self.values("learning_rate")
        if rate is not None:
            steep = bool(np.nanmin(rate) > 0 and np.nanmax(rate) > 10 * np.nanmin(rate))
            panels.append(Panel("learning rate", rate, None, logarithmic=steep))
        return [panel for panel in panels if panel is not None]

    def _panel(self, name: str) -> Panel | None:
        training, validation = self.values(name), self.values(f"val_{name}")
        if training is None and validation is None:
            return None
        return Panel(name.replace("_", " ").replace("f1", "F1"), training, validation)
