"""What happens between the steps and epochs of `fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from resnet_keras.errors import DivergedError
from resnet_keras.evaluation import Evaluation
from resnet_keras.training.feed import Feed
from resnet_keras.training.plan import PhasePlan
from resnet_keras.training.runs import write_csv
from resnet_keras.training.state import Row, model_tensors

if TYPE_CHECKING:
    from resnet_keras.training.run import Run

METRICS_CSV = "metrics.csv"

# Within long epochs; epochs shorter than the second bound are not written one by one.
CHECKPOINT_SECONDS = 600.0
EPOCH_CHECKPOINT_SECONDS = 15.0
NAMED_PICTURES = 5
METRICS = ("loss", "accuracy")
MONITORS = ("accuracy", "balanced_accuracy", "f1", "loss")


class Keeper(keras.callbacks.Callback):
    """Keeps the run: counts, validates, remembers the best weights, writes checkpoints, stops.

    Args:
        run: The run that is under way; its progress is moved forward here.
        plan: The phase.
        feed: The batches of the phase.
        validate: Returns the evaluation of the validation part; None if there is none.
    """

    def __init__(
        self, run: Run, plan: PhasePlan, *, feed: Feed, validate: Callable[[], Evaluation] | None
    ) -> None:
        super().__init__()
        self._run, self._plan, self._feed, self._validate = run, plan, feed, validate
        self._progress = run.progress
        self._best: dict[str, np.ndarray] | None = None
        self._written = self._clock = time.monotonic()
        self._before: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Points the feed at the epoch; an interrupted epoch goes on where it stopped."""
        self._feed.epoch = epoch
        if (self._progress.phase, self._progress.epoch) != (self._plan.index, epoch):
            self._progress.start_epoch(self._plan.index, epoch)
        self._before = dict(self._progress.sums)
        self._clock = time.monotonic()
        self._run.display.start_epoch(epoch, self._progress.step)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the step; leaves at this boundary if a signal came."""
        self._add(logs)
        self._run.display.step(logs)
        if self._progress.step == self._feed.steps:
            return  # the epoch ends at once, with a checkpoint of its own
        if self._run.stop.signal is not None:
            self._save()
            self._leave()
        if time.monotonic() - self._written > CHECKPOINT_SECONDS:
            self._save()

    def _add(self, logs: dict[str, float]) -> None:
        progress = self._progress
        if not math.isfinite(logs["loss"]):
            raise DivergedError(self._divergence(logs["loss"]))
        pictures = len(self._feed.indices(progress.epoch, progress.step))
        counted = progress.sums.get("pictures", 0) + pictures
        # Keras reports means since its epoch began, which after a resume is not ours.
        here = counted - self._before.get("pictures", 0)
        progress.sums = {name: self._before.get(name, 0) + logs[name] * here for name in METRICS}
        progress.sums["pictures"] = counted
        progress.step += 1
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

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Validates, keeps the weights if they are the best so far, and writes a checkpoint."""
        row = self._row(epoch)
        self._progress.history.append(row)
        if self._validate is not None and _better(
            row, self._progress.best, self._run.settings.monitor
        ):
            self._progress.best = row
            self._best = model_tensors(self._run.model)
        self._run.display.end_epoch(row, best=row is self._progress.best)
        last = epoch + 1 == self._plan.phase.epochs
        self._progress.start_epoch(self._plan.index + last, 0 if last else epoch + 1)
        late = time.monotonic() - self._written > EPOCH_CHECKPOINT_SECONDS
        if late or last or self._run.stop.signal is not None:
            self._save(between_phases=last)
        write_csv(self._run.folder / METRICS_CSV, self._progress.history)
        if self._run.stop.signal is not None:
            self._leave()

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
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(progress.seconds, 3)
        return row

    def _save(self, *, between_phases: bool = False) -> None:
        if self._best is not None:
            self._run.checkpoints.save_best(self._best, self._run.model)
            self._best = None
        trainer = None if between_phases else self.model
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
