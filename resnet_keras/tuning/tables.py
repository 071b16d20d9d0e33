"""The parts of the report of a search that are text and tables, as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_keras.evaluation.metrics import Evaluation
from resnet_keras.evaluation.page import Html, joined, table, tag
from resnet_keras.evaluation.sections import NOT_DEFINED, SCORES, facts_list
from resnet_keras.tuning.analysis import best_of_cuts, cuts_on_front
from resnet_keras.tuning.parameters import PARAMETERS
from resnet_keras.tuning.trials import Objective, TrialResult, best_first

# A page with more rows than this hides the rest behind a click.
SHOWN = 30
KINDS = {"head": "head", "fine-tune": "fine-tuned"}
# Columns of a trial that are no hyperparameter.
TRIAL = ("trial", "score", "latency", "parameters", "time")


def tiles(
    results: Sequence[TrialResult],
    objective: Objective,
    *,
    winner: TrialResult | None,
    test: Evaluation | None,
) -> Html:
    """Returns the numbers that stand for the whole."""
    failed = sum(result.status == "FAILED" for result in results)
    cells = {"trials": f"{len(results):,}", "of them failed": f"{failed:,}"}
    if winner is not None:
        error = f" ± {winner.standard_error:.4f}" if winner.standard_error is not None else ""
        score = {f"{error} validation {SCORES[objective]}".strip(): f"{winner.merit:.4f}"}
        cost = {"for one picture": _latency(winner), "parameters": _params(winner)}
        cells = {**score, **cost, **cells}
    if test is not None:
        value = test.summary()[objective]
        tested = NOT_DEFINED if value is None else f"{value:.4f}"
        cells = {f"test {SCORES[objective]}": tested, **cells}
    shown = [
        tag("div", tag("b", cell), tag("span", title), class_="tile")
        for title, cell in cells.items()
    ]
    return tag("div", *shown, class_="tiles")


def named(result: TrialResult) -> str:
    """Returns the name of a trial, which is its own within its tier."""
    return f"{KINDS[result.tier]} {result.name}"


def scored(result: TrialResult) -> str:
    """Returns the merit of a trial, with its standard error where it was repeated."""
    if result.merit is None:
        return NOT_DEFINED
    error = result.standard_error
    return f"{result.merit:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def _latency(result: TrialResult) -> str:
    if result.latency_ms is None:
        return NOT_DEFINED
    return f"{result.latency_ms:.{1 if result.latency_ms >= 10 else 2}f} ms"


def _params(result: TrialResult) -> str:
    if result.params is None:
        return NOT_DEFINED
    return f"{result.params / 1e6:.2f} M" if result.params >= 1e5 else f"{result.params:,}"


def _value(value: Any) -> str:
    if value is None:
        return NOT_DEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _title(name: str) -> str:
    return name.replace("_", " ")


def _cells(result: TrialResult) -> list[str]:
    score, seconds = scored(result), f"{result.seconds:,.1f} s"
    name = tag("span", named(result), style="white-space: nowrap")
    return [name, score, _latency(result), _params(result), seconds]


def winner_list(winner: TrialResult) -> Html:
    """Returns the hyperparameters of the winner."""
    values = {
        _title(name): _value(winner.values[name]) for name in sorted(winner.values, key=_place)
    }
    items = list({"trial": named(winner), **values}.items())
    half = math.ceil(len(items) / 2)
    halves = [tag("div", facts_list(dict(part))) for part in (items[:half], items[half:])]
    return tag("div", *halves, class_="plots")


def trials_table(results: Sequence[TrialResult], objective: Objective) -> Html:
    """Returns all trials that completed, the best first, with their hyperparameters."""
    done = best_first(results, objective)
    known = [name for result in done for name in result.values]
    names = sorted(dict.fromkeys(known), key=_place)
    head = [*TRIAL, *map(_title, names)]
    rows = [
        [*_cells(result), *(_value(result.values.get(name)) for name in names)] for result in done
    ]
    return _folded(head, rows) if rows else Html("")


def _place(name: str) -> tuple[int, str]:
    """Returns where a hyperparameter stands among others."""
    order = ["backbone", "head", *PARAMETERS]
    return order.index(name) if name in order else len(order), name


def _folded(head: Sequence[str], rows: Sequence[Sequence[str]], *, class_: str = "") -> Html:
    first = table(head, rows[:SHOWN], class_=class_)
    if len(rows) <= SHOWN:
        return first
    rest = table(head, rows[SHOWN:], class_=class_)
    summary = tag("summary", f"{len(rows) - SHOWN:,} more")
    return joined([first, tag("details", summary, rest)])


def failures_table(results: Sequence[TrialResult]) -> Html:
    """Returns the trials that failed, and why."""
    failed = [result for result in results if result.status == "FAILED"]
    rows = [(named(result), result.reason, _settings(result.values)) for result in failed]
    if not rows:
        return tag("p", "No trial failed.", class_="note")
    title = tag("h3", f"Failed: {len(rows):,}")
    head = ["trial", "why", "hyperparameters"]
    return joined([title, _folded(head, rows, class_="text")])


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{_title(name)} {_value(value)}" for name, value in values.items())


def costs_table(
    results: Sequence[TrialResult], objective: Objective, *, max_latency_ms: float | None
) -> Html:
    """Returns the best trial of each backbone and last stage, the fastest first."""
    best = best_of_cuts(results, objective)
    front = cuts_on_front(best, objective)
    rows = []
    for cut, result in sorted(best.items(), key=lambda item: item[1].latency_ms or 0.0):
        on_front = "yes" if cut in front else "no"
        row = [*map(str, cut), *_cells(result)[:4], on_front]
        if max_latency_ms is not None:
            row.append("yes" if (result.latency_ms or 0.0) <= max_latency_ms else "no")
        rows.append(row)
    head = ["backbone", "last stage", *TRIAL[:4], "on the Pareto front"]
    if max_latency_ms is not None:
        head.append("within the budget")
    return table(head, rows) if rows else Html("")
