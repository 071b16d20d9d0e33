"""The files of a search, which a process may leave at any moment and another one reads.

Each trial has a folder: `trial.json` as keras-tuner writes it, `starts.json` with how often it
began and came to no end, and `outcome.json` with what came of it, exact to the last bit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_keras.training.runs import write_json
from resnet_keras.tuning.trials import Status, Tier, TrialResult

SEARCH = "oracle.json"
TRIAL = "trial.json"
STARTS = "starts.json"
OUTCOME = "outcome.json"
ENDED = ("COMPLETED", "FAILED")
# Metrics of `Outcome` that say something else than how good the trial is.
_EXTRAS = ("seconds", "params", "latency_ms")


@dataclasses.dataclass(frozen=True)
class Stored:
    """What the file of a trial says.

    Args:
        values: The hyperparameters by name.
        status: As keras-tuner calls it.
        metrics: By name.
        score: The objective; None before the end, and if it failed.
        message: Why it failed; None if it did not.
    """

    values: dict[str, Any]
    status: str
    metrics: dict[str, float]
    score: float | None
    message: str | None


def read_mapping(path: Path) -> dict[str, Any] | None:
    """Returns what a JSON file holds, or None where there is no readable mapping."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_stored(folder: Path) -> Stored | None:
    """Returns what the file of a trial says, or None where it is missing or torn."""
    state = read_mapping(folder / TRIAL)
    try:
        return state and _stored(state)  # type: ignore[return-value]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _stored(state: Mapping[str, Any]) -> Stored:
    histories = state["metrics"]["metrics"]
    metrics = {
        name: float(history["observations"][0]["value"][0]) for name, history in histories.items()
    }
    status, score = str(state["status"]), state["score"]
    if status == "COMPLETED" and not math.isfinite(score):
        raise ValueError(score)
    return Stored(
        dict(state["hyperparameters"]["values"]), status, metrics, score, state["message"]
    )


def set_aside(path: Path, what_follows: str) -> None:
    """Renames a damaged file to `*.torn` and warns; does nothing where there is none.

    Args:
        path: The file.
        what_follows: What is done without it, for the sentence.
    """
    if path.exists():
        torn = path.with_name(path.name + ".torn")
        path.replace(torn)
        warnings.warn(f"{path} is damaged and now called {torn.name}: {what_follows}", stacklevel=2)


def read_starts(folder: Path) -> int:
    """Returns how often a trial began and came to no end."""
    starts = (read_mapping(folder / STARTS) or {}).get("starts")
    return starts if isinstance(starts, int) else 0


def write_starts(folder: Path, starts: int) -> None:
    """Writes how often a trial began and came to no end."""
    write_json(folder / STARTS, {"starts": starts})


def write_outcome(folder: Path, outcome: Mapping[str, float] | str) -> None:
    """Writes what came of a trial: its metrics, or why it failed."""
    kind = "reason" if isinstance(outcome, str) else "metrics"
    write_json(folder / OUTCOME, {kind: outcome})


def read_outcome(folder: Path) -> Mapping[str, float] | str | None:
    """Returns what came of a trial: its metrics, why it failed, or None if it has no end yet."""
    content = read_mapping(folder / OUTCOME) or {}
    if isinstance(reason := content.get("reason"), str):
        return reason
    metrics = content.get("metrics")
    if isinstance(metrics, dict) and all(isinstance(v, int | float) for v in metrics.values()):
        return metrics
    return None


def trial_number(folder: Path) -> int | None:
    """Returns the number that the folder of a trial names."""
    number = folder.name.removeprefix("trial_")
    return int(number) if number.isascii() and number.isdecimal() else None


def trial_folders(folder: Path) -> dict[int, Path]:
    """Returns the folders of all trials of a search by their number, in its order."""
    found = {trial_number(path): path for path in folder.glob("trial_*") if path.is_dir()}
    return {number: found[number] for number in sorted(n for n in found if n is not None)}


def read_result(folder: Path, tier: Tier) -> TrialResult | None:
    """Returns the result of one trial.

    Args:
        folder: That of the trial.
        tier: Of the search.

    Returns:
        None if the trial has not ended, or if its file is missing or torn.
    """
    stored = read_stored(folder)
    if stored is None or stored.status not in ENDED:
        return None
    status: Status = "COMPLETED" if stored.status == "COMPLETED" else "FAILED"
    params = stored.metrics.get("params")
    return TrialResult(
        tier=tier,
        name=folder.name.removeprefix("trial_"),
        status=status,
        values=stored.values,
        metrics={name: v for name, v in stored.metrics.items() if name not in _EXTRAS},
        score=stored.score,
        latency_ms=stored.metrics.get("latency_ms"),
        params=None if params is None else int(params),
        seconds=stored.metrics.get("seconds", 0.0),
        reason=stored.message or "",
    )


def read_results(folder: Path, tier: Tier) -> list[TrialResult]:
    """Returns the trials of a search that have ended, in the order of their numbers.

    It reads the files, in any process and while the search goes on; a trial whose file is torn
    is missing, until `SearchEngine` has repaired it.

    Args:
        folder: That of the search.
        tier: Of the search.

    Returns:
        One a trial; Hyperband's values include its own, such as "tuner/epochs".
    """
    results = (read_result(path, tier) for path in trial_folders(folder).values())
    return [result for result in results if result is not None]
