"""Where a run stands, and the checkpoints it goes on from, to the same bits."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.distribution.workers import ALONE, Workers
from resnet_keras.errors import DivergedError, RunError, WeightsError
from resnet_keras.layers import record_of, set_record
from resnet_keras.weights import read_tensors, write_tensors

Row = dict[str, float | int | str]


@dataclasses.dataclass
class Progress:
    """Where a run stands; all of it is part of each checkpoint.

    Args:
        phase: Index of the current phase.
        epoch: Current epoch of the phase, from 0.
        step: Steps of the epoch that are done.
        sums: Sums over the pictures of the epoch so far: of loss, accuracy, and their number.
        seconds: Seconds spent in the epoch so far.
        history: One row for each finished epoch.
        best: Row of the best epoch of the run by the chosen metric.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    history: list[Row] = dataclasses.field(default_factory=list)
    best: Row | None = None

    def start_epoch(self, phase: int, epoch: int) -> None:
        """Moves to the first step of an epoch."""
        self.phase, self.epoch, self.step = phase, epoch, 0
        self.sums, self.seconds = {}, 0.0


def model_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the weights of the model by `"layer/variable"`."""
    return {
        f"{layer.name}/{variable.name}": np.asarray(variable)
        for layer in model.layers
        for variable in layer.weights
    }


def trained_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns those of `model_tensors` that the current phase may change."""
    return {
        f"{layer.name}/{variable.name}": np.array(variable)
        for layer in model.layers
        if layer.trainable
        for variable in layer.weights
    }


def assign_tensors(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Puts back what `model_tensors` returned."""
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(tensors[f"{layer.name}/{variable.name}"])


def random_states(model: keras.Model) -> list[Any]:
    """Returns the variables of the model that hold the state of random draws."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


class Checkpoints:
    """The two newest checkpoints of a run, and its best weights.

    A checkpoint holds the weights of the model, the variables of the optimizer, the state of
    random draws and the `Progress`. The one before stays until the new one is complete.

    Only the chief of several processes reads and writes; what it read goes to all.

    Args:
        folder: The folder `checkpoints` of the run.
        workers: The processes of the run.
    """

    def __init__(self, folder: Path, workers: Workers = ALONE) -> None:
        self._workers = workers
        self._last = folder / "last.safetensors"
        self._previous = folder / "previous.safetensors"
        self._next = folder / "next.safetensors"
        self.best = folder / "best.safetensors"

    def save(self, model: keras.Model, trainer: keras.Model | None, progress: Progress) -> None:
        """Writes a checkpoint; `trainer` is what was compiled, if a phase is under way.

        Raises:
            DivergedError: If a weight is no finite number; nothing is written then.
            WeightsError: If the file cannot be written.
        """
        tensors = {f"model/{name}": value for name, value in model_tensors(model).items()}
        if broken := [name for name, value in tensors.items() if not np.isfinite(value).all()]:
            raise DivergedError(
                f"The weights must stay finite, but {len(broken)} tensors, {broken[0]} among them, "
                "no longer are: lower the learning rate; the last good checkpoint is kept."
            )
        if not self._workers.is_chief:
            return
        if trainer is not None:
            for name, variables in _training_variables(trainer).items():
                for index, variable in enumerate(variables):
                    tensors[f"{name}/{index}"] = np.asarray(variable)
        extra = {"progress": json.dumps(dataclasses.asdict(progress))}
        write_tensors(self._next, tensors, record=record_of(model), extra=extra)
        if self._last.exists():
            self._last.replace(self._previous)
        self._next.replace(self._last)

    def save_best(self, tensors: dict[str, np.ndarray], model: keras.Model) -> None:
        """Writes the best weights so far."""
        if not self._workers.is_chief:
            return
        named = {f"model/{name}": value for name, value in tensors.items()}
        write_tensors(self.best, named, record=record_of(model))

    def load(self, model: keras.Model) -> tuple[Progress, dict[str, np.ndarray]] | None:
        """Restores the weights of the newest whole checkpoint.

        Returns:
            The progress and the tensors for `restore_training`; None if there is no checkpoint.

        Raises:
            RunError: If there are checkpoints, but none that is whole.
        """
        with self._from_chief(self._newest) as path:
            if path is None:
                return None
            tensors, record, extra = read_tensors(path)
        set_record(model, record)
        assign_tensors(model, _under("model", tensors))
        return Progress(**json.loads(extra["progress"])), tensors

    def _newest(self) -> Path | None:
        """Returns the newest whole checkpoint."""
        errors = []
        for path in (self._last, self._previous):
            try:
                if path.exists():
                    read_tensors(path)
                    return path
            except WeightsError as error:
                errors.append(str(error))
        if errors:
            raise RunError(f"No checkpoint of the run can be read: {' '.join(errors)}")
        return None

    @contextlib.contextmanager
    def _from_chief(self, choose: Callable[[], Path | None]) -> Iterator[Path | None]:
        """Yields a file with what is in the one that the chief chose, if it chose one."""
        if self._workers.count == 1:
            yield choose()
            return

        def read() -> bytes:
            path = choose()
            return path.read_bytes() if path else b""

        content = self._workers.lead(read)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.safetensors"
            path.write_bytes(content)
            yield path if content else None

    def load_best(self, model: keras.Model) -> None:
        """Puts the best weights back into the model."""
        with self._from_chief(lambda: self.best) as path:
            assert path is not None
            assign_tensors(model, _under("model", read_tensors(path)[0]))


def restore_training(trainer: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Puts the optimizer and the random draws back where the checkpoint left them."""
    for name, variables in _training_variables(trainer).items():
        for index, variable in enumerate(variables):
            variable.assign(tensors[f"{name}/{index}"])


def _training_variables(trainer: keras.Model) -> dict[str, list[Any]]:
    return {"optimizer": trainer.optimizer.variables, "random": random_states(trainer)}


def _under(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
