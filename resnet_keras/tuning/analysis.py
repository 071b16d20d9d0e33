"""What a search found, in numbers: the Pareto front, what mattered, and whether the proxy holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from resnet_keras.tuning.trials import Objective, TrialResult, ranked

# With fewer trials a forest knows nothing.
LEAST_TRIALS = 10
LEAST_PAIRS = 3
FOLDS, TREES, PERMUTATIONS = 5, 50, 10
# A range whose ends are further apart is seen by its logarithm.
LOG_RATIO = 20.0


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Returns the indices of the points that no other one beats, the cheapest first.

    Args:
        points: Cost, of which less is better, and value, of which more is better; of equal points
            the first one counts.

    Example:
        >>> pareto_front([(3.0, 0.8), (5.0, 0.7), (9.0, 0.9)])
        [0, 2]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda each: (points[each][0], -points[each][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def value_of(result: TrialResult, objective: Objective) -> float:
    """Returns the merit of a completed trial, turned so that more is better."""
    merit = float("nan") if result.merit is None else result.merit
    return -merit if objective == "loss" else merit


def best_of_cuts(
    results: Sequence[TrialResult], objective: Objective
) -> dict[tuple[str, int], TrialResult]:
    """Returns the best trial of each backbone and last stage whose latency is known."""
    best: dict[tuple[str, int], TrialResult] = {}
    for result in ranked(results, objective):
        if result.latency_ms is not None:
            best.setdefault((result.values["backbone"], result.values["stage"]), result)
    return dict(sorted(best.items()))


def cuts_on_front(
    best: Mapping[tuple[str, int], TrialResult], objective: Objective
) -> list[tuple[str, int]]:
    """Returns the backbones and last stages that no other beats, the fastest first."""
    points = [(result.latency_ms or 0.0, value_of(result, objective)) for result in best.values()]
    return [list(best)[index] for index in pareto_front(points)]


@dataclasses.dataclass(frozen=True)
class Column:
    """The values of one hyperparameter, a row a trial, and where they lie from 0 to 1.

    Args:
        name: Its name.
        values: One a trial; None where it is not active.
    """

    name: str
    values: Sequence[Any]

    @property
    def levels(self) -> list[Any]:
        """The different values, in order; those not active left out."""
        found = {value for value in self.values if value is not None}
        return sorted(found, key=lambda value: (isinstance(value, str), value))

    @property
    def is_range(self) -> bool:
        """Whether it is a number of which there are many values."""
        return len(self.levels) > 6 and not isinstance(self.levels[-1], str)

    @property
    def is_log(self) -> bool:
        """Whether it is a range that is seen by its logarithm."""
        low, high = self.levels[0], self.levels[-1]
        return self.is_range and low > 0 and high / low > LOG_RATIO

    @property
    def numbers(self) -> np.ndarray:
        """Numbers for the values, in their order; NaN where it is not active."""
        places = {level: place for place, level in enumerate(self.levels)}
        return np.array([math.nan if each is None else self._number(each, places)
                         for each in self.values])  # fmt: skip

    def _number(self, value: Any, places: Mapping[Any, int]) -> float:
        if not self.is_range:
            return float(places[value])
        return math.log10(value) if self.is_log else float(value)


def columns(results: Sequence[TrialResult], *, without: Sequence[str] = ()) -> list[Column]:
    """Returns the hyperparameters that were tried with more than one value.

    Args:
        results: The trials.
        without: Names to leave out.
    """
    names = dict.fromkeys(name for result in results for name in result.values)
    found = [Column(name, [result.values.get(name) for result in results]) for name in names]
    return [each for each in found if each.name not in without and len(each.levels) > 1]


class Importance(NamedTuple):
    """By how much a shuffled hyperparameter misleads the forest, and the spread of that."""

    name: str
    mean: float
    spread: float


def importances(results: Sequence[TrialResult], objective: Objective) -> list[Importance]:
    """Returns what mattered in tier 1, the most important hyperparameter first.

    A random forest learns the objective from the hyperparameters. One of them is shuffled among
    trials that the forest has not seen: the importance is how much larger its mean absolute error
    gets, in units of the objective (Breiman 2001, Random Forests, section 10).

    Args:
        results: All trials.
        objective: What they were scored by.

    Returns:
        Nothing if fewer than ten trials of tier 1 completed, or nothing was varied.
    """
    done = ranked([each for each in results if each.tier == "head"], objective)
    tried = columns(done)
    if len(done) < LEAST_TRIALS or not tried:
        return []
    inputs = np.stack([_filled(column.numbers) for column in tried], axis=1)
    values = np.array([value_of(result, objective) for result in done])
    rises = np.concatenate(
        [
            _rises(inputs, values, seen=seen, unseen=unseen)
            for seen, unseen in KFold(FOLDS, shuffle=True, random_state=0).split(inputs)
        ],
        axis=1,
    )
    rows = zip(tried, rises.mean(axis=1), rises.std(axis=1), strict=True)
    named = [Importance(column.name, float(mean), float(spread)) for column, mean, spread in rows]
    return sorted(named, key=lambda row: -row.mean)


def _rises(
    inputs: np.ndarray, values: np.ndarray, *, seen: np.ndarray, unseen: np.ndarray
) -> np.ndarray:
    """Returns by how much the error rises with each column shuffled, `(columns, times)`."""
    forest = RandomForestRegressor(TREES, random_state=0).fit(inputs[seen], values[seen])
    rng, number = np.random.default_rng(0), inputs.shape[1]
    rows = np.tile(inputs[unseen], (number, PERMUTATIONS, 1, 1))
    for column in range(number):
        rows[column, ..., column] = rng.permuted(rows[column, ..., column], axis=1)
    # All in one call, of which scikit-learn's own permutation_importance makes hundreds: 4 s.
    guesses = forest.predict(rows.reshape(-1, number)).reshape(number, PERMUTATIONS, -1)
    usual: float = np.abs(forest.predict(inputs[unseen]) - values[unseen]).mean()
    rises: np.ndarray = np.abs(guesses - values[unseen]).mean(axis=2) - usual
    return rises


def _filled(numbers: np.ndarray) -> np.ndarray:
    """Returns the numbers with the median in place of NaN.

    A value of its own would let the forest read there what the hyperparameter says that this one
    depends on.
    """
    return np.where(np.isnan(numbers), np.nanmedian(numbers), numbers)


class Pair(NamedTuple):
    """A head as tier 1 and as tier 2 saw it."""

    name: str
    head: float
    fine_tuned: float


def pairs(results: Sequence[TrialResult], objective: Objective) -> list[Pair]:
    """Returns the score of each head that was fine-tuned, and the best one of its networks.

    Both are of the split of the search; the repeats of a head are of others.
    """
    heads = {each.name: each for each in results if each.tier == "head"}
    best: dict[str, TrialResult] = {}
    for result in ranked([each for each in results if each.tier == "fine-tune"], objective):
        if (name := result.values["head"]) in heads and heads[name].score is not None:
            best.setdefault(name, result)
    return [Pair(name, heads[name].score, each.score) for name, each in best.items()]  # type: ignore[arg-type]


def rank_correlation(found: Sequence[Pair]) -> float | None:
    """Returns Spearman's rank correlation of the two tiers; None with fewer than three pairs."""
    head, fine_tuned = [[pair[place] for pair in found] for place in (1, 2)]
    if len(found) < LEAST_PAIRS or len(set(head)) == 1 or len(set(fine_tuned)) == 1:
        return None
    return float(spearmanr(head, fine_tuned).statistic)
