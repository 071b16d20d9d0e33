"""What every oracle of a search does: keeps its trials in files, and finds them there again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.hyperparameters import Choice
from keras_tuner.engine.trial import Trial, TrialStatus

from resnet_keras.training.runs import write_json
from resnet_keras.tuning import files
from resnet_keras.tuning.files import ENDED, SEARCH, TRIAL
from resnet_keras.tuning.rebuild import rebuild

# Then it is the trial, not the machine, that ends the process.
MAX_STARTS = 3
# Hyperparameters of one drawing, times the drawings until one is new: far fewer than this.
_SEEDS_A_TRIAL = 1 << 20


class SoundOracle(keras_tuner.Oracle):
    """An oracle that may be left at any moment; the class before keras-tuner's own.

    All threads may call it. Every trial is in the end COMPLETED or FAILED with a reason.
    """

    trials: dict[str, Trial]
    _retry_queue: list[str]

    def settle(self, *, max_trials: int, seed: int, first: Sequence[Mapping[str, Any]]) -> None:
        """Ends the construction, which keras-tuner's oracles begin in three different ways."""
        self.max_trials = max_trials
        # Keras-tuner takes 0 for no seed.
        self.seed = seed
        self.verbose = 0
        self.lock = threading.RLock()
        self.on_end: Callable[[Path], None] = lambda folder: None
        # Whether every trial has ended, as the files say it.
        self.ended = False
        self._exhausted = False
        self._first = [self._completed(values) for values in first]

    def _completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns values with defaults where some are missing."""
        chosen = keras_tuner.HyperParameters()
        for parameter in self.hyperparameters.space:
            chosen.merge([parameter])
            if chosen.is_active(parameter):
                value = given.get(parameter.name, parameter.default)
                if isinstance(parameter, Choice) and value not in parameter.values:
                    raise ValueError(
                        f"`first` must give {parameter.name!r} one of {parameter.values}. "
                        f"Received: {value!r}"
                    )
                chosen.values[parameter.name] = value
        if strange := set(given) - {parameter.name for parameter in self.hyperparameters.space}:
            raise ValueError(f"`first` must name what is searched. Received: {sorted(strange)}")
        names = {p.name for p in self.hyperparameters.space if chosen.is_active(p)}
        return {name: value for name, value in chosen.values.items() if name in names}

    def untried_first(self) -> dict[str, Any] | None:
        """Returns the next values that are to be tried before anything is drawn."""
        return next((dict(v) for v in self._first if not self._duplicate(v)), None)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self.lock, warnings.catch_warnings():
            # Keras-tuner asks for the name of the thread in an old way.
            warnings.filterwarnings("ignore", "(currentThread|getName)", DeprecationWarning)
            yield

    def create_trial(self, tuner_id: str) -> Trial:
        """Returns the next trial; one without values if there is none, yet or at all."""
        with self._alone():
            self.aim(len(self.trials))
            trial = super().create_trial(tuner_id)
            if trial.status == TrialStatus.STOPPED:
                # A trial that runs may be lost, and has to run again then.
                if self.ongoing_trials:
                    trial.status = TrialStatus.IDLE
                self._exhausted = not self.ongoing_trials
            return trial

    def aim(self, number: int) -> None:
        """Makes what is drawn next follow from the seed and the number of the trial."""
        self._seed_state = (self.seed << 64) + number * _SEEDS_A_TRIAL

    def end_trial(self, trial: Trial) -> None:
        """Ends a trial as its file of the outcome says; does nothing if it has ended before."""
        with self._alone():
            known = self.trials[trial.trial_id]
            if known.status not in ENDED:
                folder = self.folder(trial.trial_id)
                outcome = files.read_outcome(folder)
                self._finish(known, "It left no outcome." if outcome is None else outcome)

    def _finish(self, trial: Trial, outcome: Mapping[str, float] | str) -> None:
        trial = self.new_trial(trial.trial_id, trial.hyperparameters.values)
        if isinstance(outcome, str):
            trial.status, trial.message = TrialStatus.FAILED, outcome
        else:
            self._measure(trial, outcome)
        for slot, running in list(self.ongoing_trials.items()):
            if running.trial_id == trial.trial_id:
                self.ongoing_trials[slot] = trial
        self._retry_queue = [name for name in self._retry_queue if name != trial.trial_id]
        self.trials[trial.trial_id] = trial
        super().end_trial(trial)
        self.on_end(self.folder(trial.trial_id))

    def _measure(self, trial: Trial, metrics: Mapping[str, float]) -> None:
        score = metrics.get(self.objective.name, math.nan)
        if not math.isfinite(score):
            trial.status = TrialStatus.FAILED
            trial.message = f"Its {self.objective.name} is {score}: it is no finite number."
            return
        trial.status = TrialStatus.COMPLETED
        for name, value in metrics.items():
            trial.metrics.register(name, self.direction_of(name))
            trial.metrics.update(name, value)

    def put_back(self, slots: Callable[[str], bool]) -> None:
        """Puts trials that run back into the queue, or ends them if they have come to an end.

        Args:
            slots: Tells by the name of a slot whether its trial is put back.
        """
        with self._alone():
            for slot in [name for name in self.ongoing_trials if slots(name)]:
                self.return_trial(self.ongoing_trials.pop(slot))
            self.save()

    def return_trial(self, trial: Trial) -> None:
        """Puts a trial back into the queue, unless it has come to an end."""
        folder = self.folder(trial.trial_id)
        outcome = files.read_outcome(folder)
        if outcome is not None:
            self._finish(trial, outcome)
        elif files.read_starts(folder) >= MAX_STARTS:
            again = "start it alone to see why, or search without its values"
            self._finish(trial, f"The process died {MAX_STARTS} times while it ran: {again}.")
        else:
            # Keras-tuner takes the last one of the queue.
            self._retry_queue = sorted([*self._retry_queue, trial.trial_id], reverse=True)

    def direction_of(self, metric: str) -> str:
        """Returns what is best of a metric, as keras-tuner says it."""
        return self.objective.direction if metric == self.objective.name else "min"

    @property
    def nothing_left(self) -> bool:
        """Whether no trial runs, waits or can still be made."""
        with self.lock:
            busy = self.ongoing_trials or self._retry_queue
            return not busy and (self._exhausted or len(self.trials) >= self.max_trials)

    def wanted(self, at_once: int) -> int:
        """Returns how many trials to take: after a resume, what makes the next ones as before."""
        waiting = len(self._retry_queue)
        return min(at_once, waiting + -len(self.trials) % at_once) if waiting else at_once

    def digest(self) -> str:
        """Returns what tells this search from another one, in a worker as well.

        Workers need not know the space: they read the values of each trial from its file.
        """
        facts = [type(self).__name__, str(self.objective), self.home.name, self.seed]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()

    @property
    def home(self) -> Path:
        """The folder of the search."""
        return Path(self._project_dir)

    def folder(self, trial_id: str) -> Path:
        """Returns the folder of a trial."""
        return self.home / f"trial_{trial_id}"

    def new_trial(
        self, trial_id: str, values: Mapping[str, Any], status: str = TrialStatus.RUNNING
    ) -> Trial:
        """Returns a trial with these values, which runs unless it is said otherwise."""
        hyperparameters = self.get_space()
        hyperparameters.values = dict(values)
        return Trial(hyperparameters, trial_id=trial_id, status=status)

    def take(self, trial: Trial) -> None:
        """Takes over a trial of before."""
        self.trials[trial.trial_id] = trial
        self._record_values(trial)

    def replay(self) -> None:
        """Finds out again what follows from the trials so far."""

    def _record_values(self, trial: Trial) -> None:
        # Keras-tuner's own loses a value whose name is declared in several conditional scopes.
        self._tried_so_far.add(self._compute_values_hash(trial.hyperparameters.values))

    def _random_values(self) -> Any:
        return self.untried_first() or super()._random_values()

    def _save_trial(self, trial: Trial) -> None:
        write_json(self.folder(trial.trial_id) / TRIAL, trial.get_state())

    def get_state(self) -> dict[str, Any]:
        """Returns keras-tuner's state, and the values of all trials, should a file be torn."""
        values = {name: dict(trial.hyperparameters.values) for name, trial in self.trials.items()}
        ended = self.digest() if self.ended else None
        return {**super().get_state(), "values": values, "ended": ended}

    def save(self) -> None:
        """Writes the state of the search."""
        with self.lock:
            write_json(self.home / SEARCH, self.get_state())

    def end(self) -> None:
        """Writes that every trial has ended."""
        self.ended = True
        self.save()

    def reload(self) -> None:
        """Takes up the search that the files tell of, whatever of them is there and whole."""
        with self._alone():
            rebuild(self)
