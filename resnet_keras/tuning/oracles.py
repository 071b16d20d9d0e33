"""Keras-tuner's oracles, which say what is tried next, made sound.

    make_oracle(algorithm, *, objective, max_trials, max_epochs, seed, hyperparameters, first=())

What an oracle draws follows from the seed, the number of the trial and what has ended before it:
after a resume it goes on as if it had never stopped.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras_tuner
import numpy as np
import scipy.optimize
from keras_tuner.engine.trial import TrialStatus
from sklearn.exceptions import ConvergenceWarning

from resnet_keras.tuning.record import SoundOracle
from resnet_keras.tuning.trials import Objective

# Points of the space that the Gaussian process judges, and those from which a slope is followed.
_POINTS = 2000
_SLOPES = 4
_LENGTHS = 2
Algorithm = Literal["random", "hyperband", "bayesian"]


class RandomOracle(SoundOracle, keras_tuner.oracles.RandomSearchOracle):
    """Draws every trial by chance."""


class HyperbandOracle(SoundOracle, keras_tuner.oracles.HyperbandOracle):
    """Begins many trials with few epochs, and goes on with the best; see "tuner/epochs"."""

    def replay(self) -> None:
        """Puts all trials where they are in the brackets, as they began."""
        self._current_iteration, self._current_bracket = 0, self._get_num_brackets() - 1
        self._brackets: list[dict[str, Any]] = []
        self._start_new_bracket()
        for trial in self.trials.values():
            values = trial.hyperparameters.values
            rounds = self._rounds_for(values)
            entry = {"past_id": values.get("tuner/trial_id"), "id": trial.trial_id}
            rounds[values.get("tuner/round", 0)].append(entry)

    def _rounds_for(self, values: Mapping[str, Any]) -> Any:
        """Returns the rounds that a trial belongs to: those of the trial that it goes on with."""
        past = values.get("tuner/trial_id")
        for bracket in self._brackets:
            if any(entry["id"] == past for entries in bracket["rounds"] for entry in entries):
                return bracket["rounds"]
        rounds = self._brackets[-1]["rounds"]
        if len(rounds[0]) >= self._get_size(self._current_bracket, 0):
            self._increment_bracket_num()
            self._start_new_bracket()
        return self._brackets[-1]["rounds"]

    def get_state(self) -> dict[str, Any]:
        """Returns the state; JSON knows no number for "without end"."""
        return {**super().get_state(), "hyperband_iterations": 0}


class BayesianOracle(SoundOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Models the objective with a Gaussian process, and tries where it may be best."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the values of a trial, of which none is tried twice."""
        self._random_state = np.random.RandomState([self.seed, int(trial_id)])
        # The kernel has one length to find: keras-tuner's 20 more starts find no other.
        self.gpr = self._make_gpr().set_params(n_restarts_optimizer=_LENGTHS)
        done = sum(trial.status == "COMPLETED" for trial in self.trials.values())
        if done >= self.num_initial_points and self.untried_first() is None:
            values = self._vector_to_values(self._promising())
            if not self._duplicate(values):
                return {"status": TrialStatus.RUNNING, "values": values}
        drawn: dict[str, Any] = self._random_populate_space()
        return drawn

    def _promising(self) -> Any:
        """Returns the point whose objective may be best, as keras-tuner finds it but sooner.

        It follows the slope from fifty points drawn by chance, here from the best of many.
        """
        with warnings.catch_warnings():
            # A length of the kernel at its bound is no fault of the search.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.gpr.fit(*self._vectorize_trials())
        bounds = self._get_hp_bounds()
        points = self._random_state.uniform(size=(_POINTS, len(bounds)))
        starts = points[np.argsort(self._bound(points))[:_SLOPES]]
        ends = [
            scipy.optimize.minimize(self._bound, start, bounds=bounds, method="L-BFGS-B")
            for start in starts
        ]
        return min(ends, key=lambda end: float(np.squeeze(end.fun))).x

    def _bound(self, points: Any) -> Any:
        """Returns the least that points may have, where less is better."""
        mean, deviation = self.gpr.predict(np.atleast_2d(points), return_std=True)
        return np.squeeze(mean - self.beta * deviation)

    def _vectorize_trials(self) -> Any:
        """Returns what is known: the results, and what they let expect of trials that run."""
        every = self.trials
        done = {name: trial for name, trial in every.items() if trial.status == "COMPLETED"}
        running = {trial.trial_id: trial for trial in self.ongoing_trials.values()}
        try:
            self.trials = done
            if running:
                self.gpr.fit(*super()._vectorize_trials())
            # Keras-tuner has no score for a trial that was put back and does not run yet.
            self.trials = done | running
            return super()._vectorize_trials()
        finally:
            self.trials = every


def make_oracle(
    algorithm: Algorithm,
    *,
    objective: Objective,
    max_trials: int,
    max_epochs: int,
    seed: int,
    hyperparameters: keras_tuner.HyperParameters,
    first: Sequence[Mapping[str, Any]] = (),
) -> SoundOracle:
    """Returns keras-tuner's oracle for an algorithm.

    Args:
        algorithm: "random", "hyperband" or "bayesian".
        objective: What is best; trials report it with "val_" before its name.
        max_trials: Trials in all, 1 or more.
        max_epochs: Epochs of a whole training; Hyperband gives those of each trial, which may be
            fewer, as "tuner/epochs".
        seed: From 0 to 2**32 - 1.
        hyperparameters: What is searched.
        first: Values that are tried first, in this order; what is missing takes its default.

    Raises:
        ValueError: If `algorithm` is unknown, or `first` names what is not searched or a value
            that it cannot have.

    Example:
        >>> import keras_tuner
        >>> from resnet_keras.tuning.oracles import make_oracle
        >>> space = keras_tuner.HyperParameters()
        >>> _ = space.Choice("units", [64, 128])
        >>> oracle = make_oracle("random", objective="loss", max_trials=2, max_epochs=9, seed=0,
        ...                      hyperparameters=space)
        >>> oracle.objective.name, oracle.objective.direction
        ('val_loss', 'min')
    """
    direction = "min" if objective == "loss" else "max"
    common = {
        "objective": keras_tuner.Objective(f"val_{objective}", direction),
        "hyperparameters": hyperparameters,
        "seed": seed,
        "allow_new_entries": False,
        "tune_new_entries": False,
        # One more than there are: failures never end a search.
        "max_consecutive_failed_trials": max_trials + 1,
    }
    match algorithm:
        case "random":
            oracle: SoundOracle = RandomOracle(max_trials=max_trials, **common)
        case "hyperband":
            # 0: new brackets begin until there are enough trials.
            oracle = HyperbandOracle(max_epochs=max_epochs, hyperband_iterations=0, **common)
        case "bayesian":
            # Keras-tuner's own three for each hyperparameter are often more than all trials.
            points = max(3, min(3 * len(hyperparameters.space), max_trials // 3))
            oracle = BayesianOracle(max_trials=max_trials, num_initial_points=points, **common)
        case _:
            raise ValueError(
                "`algorithm` must be one of ['random', 'hyperband', 'bayesian']. Received: "
                f"{algorithm!r}"
            )
    oracle.settle(max_trials=max_trials, seed=seed, first=first)
    return oracle
