"""What a person sees of a run: a live bar in a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_keras.training.plan import PhasePlan
from resnet_keras.training.state import Row


class Display:
    """Shows phases, epochs and steps on standard error.

    Args:
        quiet: Whether nothing is shown at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar: Progress | None = None
        self._plan: PhasePlan | None = None
        self._steps = 0

    @contextmanager
    def _progress(self, description: str, total: int) -> Iterator[Progress | None]:
        if not self._console.is_terminal or self._console.quiet:
            yield None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            bar.add_task(description, total=total)
            yield bar

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def counting(
        self, description: str, total: int, *, unit: str = "pictures"
    ) -> Iterator[Callable[[int], None]]:
        """Shows a bar for something that is counted; yields the function that counts."""
        if not self._console.is_terminal:
            self.say(f"  {description}: {total:,} {unit}")
        with self._progress(description, total) as bar:
            task = bar.task_ids[0] if bar else None
            yield lambda count: bar.advance(task, count) if bar else None  # type: ignore[arg-type]

    @contextmanager
    def phase(self, plan: PhasePlan, steps: int) -> Iterator[None]:
        """Shows a phase; its epochs fill one bar each."""
        self._plan, self._steps = plan, steps
        with self._progress(plan.phase.start, steps) as self._bar:
            yield
        self._bar = None

    def start_epoch(self, epoch: int, step: int) -> None:
        """Begins the bar anew."""
        if self._bar and self._plan:
            of = f"{self._plan.phase.start} epoch {epoch + 1}/{self._plan.phase.epochs}"
            self._bar.reset(self._bar.task_ids[0], completed=step, description=of)

    def step(self, count: int) -> None:
        """Moves the bar by some steps."""
        if self._bar:
            self._bar.advance(self._bar.task_ids[0], count)

    def end_epoch(self, row: Row, *, best: bool) -> None:
        """Prints the figures of an epoch."""
        numbers = {name: value for name, value in row.items() if isinstance(value, float)}
        shown = ("loss", "accuracy", "val_loss", "val_accuracy", "seconds")
        figures = "  ".join(f"{name} {numbers[name]:.4f}" for name in shown[:-1] if name in numbers)
        mark = "  best" if best else ""
        self.say(f"  {row['phase']} {row['epoch']:>3}  {figures}  {numbers['seconds']:.1f} s{mark}")
