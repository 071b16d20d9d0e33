"""What a search says about each of its trials."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

# Of the validation part; "loss" is the only one that should be small.
Objective = Literal["accuracy", "balanced_accuracy", "f1", "loss"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
# A head on cached features, or the network itself through `fine_tune`.
Tier = Literal["head", "fine-tune"]
Status = Literal["COMPLETED", "FAILED"]


def is_better(score: float, than: float, objective: Objective) -> bool:
    """Returns whether a score is better than another one."""
    return score < than if objective == "loss" else score > than


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """One trial of a search.

    Args:
        tier: "head" or "fine-tune".
        name: Its name within the tier, as keras-tuner gives it.
        status: "COMPLETED" or "FAILED".
        values: The hyperparameters by name.
        metrics: Of the validation part, by name, at the best epoch; empty if it failed.
        score: The objective at the best epoch; None if it failed.
        repeats: The objective on further splits of training and validation pictures.
        latency_ms: Milliseconds for one picture through backbone and head; None if unknown.
        params: Number of parameters of the whole network; None if unknown.
        seconds: How long it took.
        reason: Why it failed, one sentence; empty if it did not.
    """

    tier: Tier
    name: str
    status: Status
    values: Mapping[str, Any]
    metrics: Mapping[str, float]
    score: float | None
    repeats: Sequence[float] = ()
    latency_ms: float | None = None
    params: int | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def merit(self) -> float | None:
        """The mean of the repeats where there are any, else the score."""
        return float(np.mean(self.repeats)) if self.repeats else self.score

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean of the repeats; None with fewer than two."""
        if len(self.repeats) < 2:
            return None
        return float(np.std(self.repeats, ddof=1)) / math.sqrt(len(self.repeats))


def before_failure(scores: Iterable[float | None]) -> tuple[float, ...]:
    """Returns the scores before the first that is missing or no finite number.

    Repeats of one number have one split: the first of a trial are those of another one's first.
    """
    found: list[float] = []
    for score in scores:
        if score is None or not math.isfinite(score):
            break
        found.append(score)
    return tuple(found)


def ranked(results: Sequence[TrialResult], objective: Objective) -> list[TrialResult]:
    """Returns those that completed, the best merit first; repeated ones before all others."""
    done = [result for result in results if result.merit is not None]
    sign = 1 if objective == "loss" else -1

    def key(result: TrialResult) -> tuple[bool, float]:
        return not result.repeats, sign * float(result.merit or 0.0)

    return sorted(done, key=key)


def best_first(results: Sequence[TrialResult], objective: Objective) -> list[TrialResult]:
    """Returns those that completed: first the networks and then the heads, each the best first."""
    tiers = [[each for each in results if each.tier == tier] for tier in ("fine-tune", "head")]
    return [each for tier in tiers for each in ranked(tier, objective)]
