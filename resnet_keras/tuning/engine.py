"""Runs the trials of a search: in this process, or as the chief or a worker of several.

A subclass of `SearchEngine` says in `train(trials)` what came of each trial, in their order. Then
`Search(oracle, folder=folder, tier="head", at_once=32, told=show).search()` runs them all, and
`read_results(folder, "head")` tells of them in any process.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial, TrialStatus

from resnet_keras.errors import DivergedError
from resnet_keras.training.signals import SIGNAL_EXIT
from resnet_keras.tuning import files
from resnet_keras.tuning.chief import JOIN_SECONDS, LOST_SECONDS, Role, serve
from resnet_keras.tuning.files import read_results
from resnet_keras.tuning.memory import limited_memory
from resnet_keras.tuning.record import MAX_STARTS, SoundOracle
from resnet_keras.tuning.trials import Tier, TrialResult
from resnet_keras.tuning.worker import OracleOfChief

__all__ = ["Outcome", "SearchEngine", "read_results"]

# Metrics by name, the objective among them, or why there are none.
Outcome: TypeAlias = Mapping[str, float] | Exception
_IDLE_SECONDS = 0.5


class SearchEngine(BaseTuner):
    """A search; subclasses say in `train` what a trial is.

    Args:
        oracle: From `make_oracle`, new; it takes up what is in the folder.
        folder: That of the search, which all its processes share.
        tier: Of the search.
        at_once: How many trials are trained together, 1 or more.
        told: Called with the result of every trial that has ended; in the chief with all.
        join_seconds: How long a worker waits for the chief, and the chief for the first worker.
        lost_seconds: How long a worker or the chief may be silent before it is given up.

    Raises:
        WorkersError: If keras-tuner's environment variables are wrong or some are missing.
    """

    def __init__(
        self,
        oracle: SoundOracle,
        *,
        folder: Path,
        tier: Tier,
        at_once: int = 1,
        told: Callable[[TrialResult], None] = lambda result: None,
        join_seconds: float = JOIN_SECONDS,
        lost_seconds: float = LOST_SECONDS,
    ) -> None:
        self._role = Role.from_environment()
        super().__init__(oracle, directory=str(folder.absolute().parent), project_name=folder.name)
        self.tuner_id = self._role.name
        self._tier, self._at_once, self._told = tier, at_once, told
        self._seconds = {"join_seconds": join_seconds, "lost_seconds": lost_seconds}
        self._record = oracle
        if self._role.is_worker:
            self.oracle = OracleOfChief(oracle, self._role, **self._seconds)
        else:
            oracle.on_end = self._tell
            oracle.reload()

    def train(self, trials: Sequence[Trial]) -> Iterator[Outcome]:
        """Trains trials together.

        Args:
            trials: `trial.hyperparameters.values` says of each what it is.

        Returns:
            What came of each, in their order; an exception raised is that of the next one, and
            those after it are given to another call. Metrics may include "seconds", "params" and
            "latency_ms".
        """
        raise NotImplementedError

    def search(self) -> None:
        """Runs all trials; in a chief, waits for the workers that do.

        Raises:
            WorkersError: If the chief or all workers are lost, or never came.
            ValueError: If a trial reports no value of the objective.
        """
        with _sigterm_as_exit():
            if self._role.is_chief:
                serve(self._record, self._role, **self._seconds)
            elif self._role.is_worker:
                with self.oracle.joined() as there:
                    if there:
                        self._run_all(lambda: self._at_once)
            else:
                self._run_alone()

    def skip(self) -> None:
        """Writes that nothing is to be tried, so that no worker waits for it."""
        self._record.end()

    def _run_alone(self) -> None:
        try:
            self._run_all(lambda: self._record.wanted(self._at_once))
        finally:
            self._record.put_back(lambda slot: True)
        self._record.end()

    def _run_all(self, wanted: Callable[[], int]) -> None:
        while True:
            trials, status = self._claim(wanted())
            if not trials and status == TrialStatus.STOPPED:
                return
            if not trials:
                time.sleep(_IDLE_SECONDS)
            for group in _groups(trials, self._starts):
                self._run(group)

    def _claim(self, count: int) -> tuple[list[Trial], str]:
        trials: list[Trial] = []
        for slot in range(count):
            trial = self.oracle.create_trial(f"{self.tuner_id}-{slot}")
            if trial.status != TrialStatus.RUNNING:
                return trials, trial.status
            trials.append(trial)
        return trials, TrialStatus.RUNNING

    def _run(self, trials: Sequence[Trial]) -> None:
        left = list(trials)
        while left:
            before = len(left)
            with self._started(left), limited_memory():
                for outcome in self._outcomes(left):
                    self._end(left.pop(0), outcome)
            if len(left) == before:
                raise RuntimeError(f"`train` gave no outcome of {before} trials.")

    def _outcomes(self, trials: Sequence[Trial]) -> Iterator[Outcome]:
        try:
            yield from self.train(tuple(trials))
        except Exception as error:
            yield error

    @contextlib.contextmanager
    def _started(self, trials: list[Trial]) -> Iterator[None]:
        """Counts a start for those that come to no end in the block, unless it is left in order."""
        started = {trial.trial_id: self._starts(trial) for trial in trials}
        for name, starts in started.items():
            files.write_starts(self._record.folder(name), starts + 1)
        try:
            yield
        finally:
            for trial in trials:
                name = trial.trial_id
                files.write_starts(self._record.folder(name), started[name])

    def _starts(self, trial: Trial) -> int:
        return files.read_starts(self._record.folder(trial.trial_id))

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        folder = self._record.folder(trial.trial_id)
        files.write_outcome(folder, _metrics_or_reason(outcome, self._record.objective.name))
        self.oracle.end_trial(trial)
        if self._role.is_worker:
            self._tell(folder)

    def _tell(self, folder: Path) -> None:
        result = files.read_result(folder, self._tier)
        if result is not None:
            self._told(result)

    def save(self) -> None:
        """Does nothing: the oracle writes its files itself, and the engine has none."""

    def reload(self) -> None:
        """Does nothing: see `save`."""


def _groups(trials: Sequence[Trial], starts: Callable[[Trial], int]) -> Iterator[list[Trial]]:
    """Yields what is trained together: alone what would be given up at the next death."""
    together: list[Trial] = []
    for trial in trials:
        if starts(trial) < MAX_STARTS - 1:
            together.append(trial)
            continue
        if together:
            yield together
        yield [trial]
        together = []
    if together:
        yield together


def _metrics_or_reason(outcome: Outcome, objective: str) -> dict[str, float] | str:
    if isinstance(outcome, Exception):
        return reason_of(outcome)
    metrics = {name: float(value) for name, value in outcome.items()}
    if objective not in metrics:
        raise ValueError(
            f"A trial must report the objective {objective!r}. Received: {sorted(metrics)}"
        )
    for name, value in metrics.items():
        if not math.isfinite(value):
            return f"The training diverged: {name} is {value}."
    return metrics


def reason_of(error: Exception) -> str:
    """Returns one sentence that says why a trial failed."""
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError) or _is_exhausted(error):
        return f"The memory ran out: it needs more than is free ({type(error).__name__})."
    if isinstance(error, DivergedError):
        return f"The training diverged: {first}"
    return f"{type(error).__name__}: {first}" if first else f"{type(error).__name__}."


def _is_exhausted(error: Exception) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.ResourceExhaustedError)


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Lets SIGTERM leave the block in order, where nobody else takes it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(SIGNAL_EXIT + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
