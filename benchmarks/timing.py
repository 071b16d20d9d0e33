"""Rounds of several programs in turn, and what their times say: medians, ratios and ranges."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

# Does something and returns the seconds of its parts: epochs, or calls.
Work = Callable[[], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One timed run of a program.

    Args:
        seconds: Of the whole, by the clock on the wall.
        parts: Seconds of each of its epochs or calls.
        peak_rss: Most memory that the process held meanwhile, in bytes.
    """

    seconds: float
    parts: tuple[float, ...]
    peak_rss: int

    @property
    def later_part(self) -> float:
        """Mean seconds of the parts after the first; of the first if it is alone."""
        return statistics.fmean(self.parts[1:] or self.parts)

    @property
    def first_part(self) -> float:
        """Seconds of all but the later parts: the first one, and what is done once."""
        return self.seconds - sum(self.parts[1:])


def timed(work: Work) -> Run:
    """Runs a program once and times it."""
    gc.collect()
    # What earlier runs freed, glibc keeps: 0.2 GB after four runs.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    # Linux forgets the peak when asked to; elsewhere it is that since the process began.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    parts = tuple(work())
    return Run(time.perf_counter() - started, parts, _peak_rss())


def _peak_rss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_turn(
    programs: Mapping[str, Work], rounds: int, *, say: Callable[[str], None]
) -> dict[str, list[Run]]:
    """Runs each program once a round, so that all of them see what else the machine does.

    Args:
        programs: Programs by name.
        rounds: Number of rounds.
        say: Called with a line after each run.

    Returns:
        The runs of each program, one a round.
    """
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for number in range(rounds):
        for name, work in programs.items():
            run = timed(work)
            runs[name].append(run)
            say(f"round {number + 1} of {rounds}: {name} {run.seconds:.2f} s")
    return runs


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity of several programs, less of which is better.

    Args:
        measure: What it is.
        unit: "s" or "bytes".
        values: One value a round by program; the first program is what others are compared to.
    """

    measure: str
    unit: Literal["s", "bytes"]
    values: Mapping[str, Sequence[float]]

    @property
    def medians(self) -> dict[str, float]:
        """The median over the rounds of each program."""
        return {name: statistics.median(values) for name, values in self.values.items()}

    @property
    def ratios(self) -> dict[str, dict[str, float]]:
        """Stock divided by each other program: of the medians, and the range over the rounds."""
        (first, base), *others = self.values.items()
        ratios = {}
        for name, values in others:
            pairs = [stock / own for stock, own in zip(base, values, strict=True)]
            ratios[name] = {
                "of_medians": self.medians[first] / self.medians[name],
                "lowest": min(pairs),
                "highest": max(pairs),
            }
        return ratios

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as a dictionary that JSON can hold."""
        return {**dataclasses.asdict(self), "medians": self.medians, "ratios": self.ratios}
