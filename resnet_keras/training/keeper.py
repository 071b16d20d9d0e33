"""What happens between the steps and epochs of a phase."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import keras
import numpy as np

from resnet_keras.errors import DivergedError
from resnet_keras.evaluation import Evaluation
from resnet_keras.training.feed import Feed
from resnet_keras.training.loop import Sums
from resnet_keras.training.optimizers import averaged
from resnet_keras.training.plan import PhasePlan
from resnet_keras.training.runs import write_csv
from resnet_keras.training.state import Row, model_tensors, trained_tensors

if TYPE_CHECKING:
    from resnet_keras.training.run import Run

METRICS_CSV = "metrics.csv"

# Within long epochs; epochs shorter than the second bound are not written one by one.
CHECKPOINT_SECONDS = 600.0
EPOCH_CHECKPOINT_SECONDS = 15.0
# Epochs of a head take milliseconds; each write of the table waits for the disk.
CSV_SECONDS = 1.0
NAMED_PICTURES = 5
METRICS = ("loss", "accuracy")
MONITORS = ("accuracy", "balanced_accuracy", "f1", "loss")


class Keeper:
    """Keeps the run: counts, validates, remembers the best weights, writes checkpoints, stops.

    Args:
        run: The run that is under way; its progress is moved forward here.
        plan: The phase.
        trainer: What trains in the phase, with its optimizer.
        feed: The batches of the phase.
        validate: Returns the evaluation of the validation part; None if there is none.
    """

    def __init__(
        self,
        run: Run,
        plan: PhasePlan,
        *,
        trainer: keras.Model,
        feed: Feed,
        validate: Callable[[], Evaluation] | None,
    ) -> None:
        self._run, self._plan, self._feed, self._validate = run, plan, feed, validate
        self._trainer, self._progress = trainer, run.progress
        self._best: dict[str, np.ndarray] | None = None
        self._written = self._listed = self._clock = time.monotonic()

    def start_epoch(self, epoch: int) -> int:
        """Returns the first step of an epoch; an interrupted one goes on where it stopped."""
        if (self._progress.phase, self._progress.epoch) != (self._plan.index, epoch):
            self._progress.start_epoch(self._plan.index, epoch)
        self._run.display.start_epoch(epoch, self._progress.step)
        self._clock = time.monotonic()
        return self._progress.step

    def count(self, steps: int, sums: Sums) -> None:
        """Counts steps, with the sums over their pictures; leaves if a signal came."""
        self._add(steps, sums)
        self._run.display.step(steps)
        if self._progress.step == self._feed.steps:
            return  # the epoch ends at once, with a checkpoint of its own
        if self._run.stop.is_agreed:
            self._save()
            self._leave()
        if time.monotonic() - self._written > CHECKPOINT_SECONDS:
            self._save()

    def _add(self, steps: int, sums: Sums) -> None:
        progress = self._progress
        if not math.isfinite(sums["loss"]):
            raise DivergedError(self._divergence(sums["loss"]))
        progress.sums = {name: progress.sums.get(name, 0.0) + sums[name] for name in sums}
        progress.step += steps
        now = time.monotonic()
        progress.seconds, self._clock = progress.seconds + now - self._clock, now

    def _divergence(self, loss: float) -> str:
        progress = self._progress
        indices = self._feed.indices(progress.epoch, progress.step)[:NAMED_PICTURES]
        names = ", ".join(self._run.data.train.names[index] for index in indices)
        return (
            f"The loss must stay finite, but it became {loss} in phase {self._plan.phase.start!r}, "
            f"epoch {progress.epoch + 1}, step {progress.step + 1} (pictures {names}, ...): lower "
            "the learning rate; the last good checkpoint is kept."
        )

    def end_epoch(self, epoch: int) -> None:
        """Validates, keeps the weights if they are the best so far, and writes a checkpoint."""
        last = epoch + 1 == self._plan.phase.epochs
        with averaged(self._trainer, keep=last):
            row = self._row(epoch)
            self._progress.history.append(row)
            monitor = self._run.settings.monitor
            if self._validate is not None and _better(row, self._progress.best, monitor):
                self._progress.best = row
                self._best = trained_tensors(self._run.model)
        self._run.display.end_epoch(row, best=row is self._progress.best)
        self._progress.start_epoch(self._plan.index + last, 0 if last else epoch + 1)
        self._write(last=last)

    def _write(self, *, last: bool) -> None:
        now, stopped = time.monotonic(), self._all_stop()
        if last or stopped or now - self._written > EPOCH_CHECKPOINT_SECONDS:
            self._save(between_phases=last)
        if last or stopped or now - self._listed > CSV_SECONDS:
            if self._run.replicas.workers.is_chief:
                write_csv(self._run.folder / METRICS_CSV, self._progress.history)
            self._listed = now
        if stopped:
            self._leave()

    def _all_stop(self) -> bool:
        """Returns whether a signal came to any process, up to now."""
        stop = self._run.stop
        if any(self._run.replicas.workers.gather(b"stop" if stop.signal else b"")):
            stop.join()
        return stop.is_agreed

    def _leave(self) -> None:
        self._run.display.say(f"stopped at {self._run.where()}; resume the run to go on")
        self._run.stop.leave()

    def _row(self, epoch: int) -> Row:
        progress, phase = self._progress, self._plan.phase
        seen = progress.sums["pictures"]
        row: Row = {"phase": phase.start, "phase_index": self._plan.index, "epoch": epoch + 1}
        row |= {name: progress.sums[name] / seen for name in METRICS}
        if self._validate is not None:
            row |= {f"val_{name}": value for name, value in scores(self._validate()).items()}
        row["learning_rate"] = float(
            keras.ops.convert_to_numpy(self._trainer.optimizer.learning_rate)
        )
        row["seconds"] = round(progress.seconds, 6)
        return row

    def _save(self, *, between_phases: bool = False) -> None:
        if self._best is not None:
            self._run.checkpoints.save_best(
                model_tensors(self._run.model) | self._best, self._run.model
            )
            self._best = None
        trainer = None if between_phases else self._trainer
        self._run.checkpoints.save(self._run.model, trainer, self._progress)
        self._written = time.monotonic()


def scores(evaluation: Evaluation) -> dict[str, float]:
    """Returns the numbers of an evaluation by which epochs are compared."""
    return {name: float(getattr(evaluation, name)) for name in MONITORS}


def _better(row: Row, best: Row | None, monitor: str) -> bool:
    def rank(row: Row) -> tuple[float, float]:
        loss = -float(row["val_loss"])
        # Few pictures give many ties in accuracy: the lower loss decides.
        return (loss if monitor == "loss" else float(row[f"val_{monitor}"]), loss)

    return best is None or rank(row) > rank(best)
