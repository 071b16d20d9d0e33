"""`write_search_report`: one HTML page about a search, its plots as PNG, its trials as CSV."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from resnet_keras.atomic import write_atomically
from resnet_keras.errors import RunError
from resnet_keras.evaluation import Evaluation, sections
from resnet_keras.evaluation.page import Html, page, plot_image, section, tag
from resnet_keras.evaluation.palette import Palette, render_both
from resnet_keras.evaluation.plots import confusion_counts, confusion_shares
from resnet_keras.evaluation.report import PLOTS, REPORT, SMALL_MATRIX, write_plots
from resnet_keras.training.runs import write_csv
from resnet_keras.tuning import plots, tables
from resnet_keras.tuning.analysis import columns, importances, pairs
from resnet_keras.tuning.coordinates import coordinates
from resnet_keras.tuning.merit import merit_section
from resnet_keras.tuning.trials import Objective, TrialResult

TRIALS = "trials.csv"
# By the name of its file, what to say where a plot cannot be seen, and how wide it is.
ALTERNATIVES = {
    "scores": ("Objective of each trial, and the best so far", "wide"),
    "latency": ("Objective over the time for a picture, and the Pareto front", "wide"),
    "coordinates_head": ("Hyperparameters and score of each head", "wide"),
    "coordinates_fine_tune": ("Hyperparameters and score of each fine-tuned network", "wide"),
    "importance": ("How much each hyperparameter matters", ""),
    "ranking": ("Objective after fine-tuning over that of the head alone", ""),
    "confusion_counts": ("Confusion matrix, number of pictures", ""),
    "confusion_shares": ("Confusion matrix, share of the true class", ""),
}
# A plot of more pixels takes the width of the page.
BROAD = 1300

Draw = Callable[[Palette], Figure]


def write_search_report(
    folder: Path,
    *,
    results: Sequence[TrialResult],
    objective: Objective,
    title: str,
    facts: Mapping[str, str],
    winner: TrialResult | None,
    test: Evaluation | None,
    default: TrialResult | None = None,
    max_latency_ms: float | None = None,
) -> Path:
    """Writes `report.html`, which needs no other file, `plots/*.png` and `trials.csv`.

    Args:
        folder: Where to write; made if missing.
        results: All trials, in the order in which they were tried.
        objective: What they were scored by.
        title: What stands above.
        facts: Lines for the head of the report: weights, data, seed.
        winner: The best of them; None if there is none.
        test: What the winner said about the test part; None leaves it out.
        default: The trial of the usual hyperparameters, which the winner is compared with.
        max_latency_ms: The budget, in milliseconds for one picture.

    Returns:
        The path of the page.

    Raises:
        RunError: If a file cannot be written; what was there before stays as it was.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from resnet_keras.tuning.report import write_search_report
        >>> nothing = {"results": [], "winner": None, "test": None, "facts": {}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder)
        ...     write_search_report(path, **nothing, objective="accuracy", title="A search").name
        'report.html'
    """
    drawn = _figures(results, objective, test=test, max_latency_ms=max_latency_ms)
    files, figures = {}, dict.fromkeys(ALTERNATIVES, Html(""))
    for name, draw in drawn.items():
        light, dark = render_both(draw)
        alternative, size = ALTERNATIVES[name]
        if Image.open(io.BytesIO(light)).width > BROAD:
            size = "large"
        files[name] = light
        figures[name] = plot_image(light, dark, alternative=alternative, class_=size)
    document = page(
        title,
        tag("h1", title),
        tag("p", "Report of a search", class_="lead"),
        tables.tiles(results, objective, winner=winner, test=test),
        section("Facts", sections.facts_list(facts)),
        section("Winner", tables.winner_list(winner) if winner else Html("")),
        section(
            "Luck or merit",
            merit_section(results, objective, winner=winner, default=default),
        ),
        *_about(results, objective, figures=figures, max_latency_ms=max_latency_ms),
        *(_tested(test, figures) if test else []),
        section(
            "Trials",
            tables.trials_table(results, objective),
            tables.failures_table(results) if results else Html(""),
        ),
    )
    write_csv(Path(folder) / TRIALS, [_row(result) for result in results])
    write_plots(Path(folder) / PLOTS, files, known=ALTERNATIVES)
    return write_atomically(Path(folder) / REPORT, [document.encode()], RunError)


def _about(
    results: Sequence[TrialResult],
    objective: Objective,
    *,
    figures: Mapping[str, Html],
    max_latency_ms: float | None,
) -> list[Html]:
    """Returns the sections about the search as a whole."""
    small = [figures[name] for name in ("importance", "ranking") if figures[name]]
    costs = tables.costs_table(results, objective, max_latency_ms=max_latency_ms)
    return [
        section("Search", figures["scores"]),
        section("Latency", figures["latency"], costs),
        section(
            "Hyperparameters",
            figures["coordinates_head"],
            figures["coordinates_fine_tune"],
            tag("div", *small, class_="plots") if small else Html(""),
        ),
    ]


def _tested(test: Evaluation, figures: Mapping[str, Html]) -> list[Html]:
    """Returns the sections about the test part."""
    class_ = "plots" if len(test.class_names) <= SMALL_MATRIX else ""
    matrices = tag("div", figures["confusion_counts"], figures["confusion_shares"], class_=class_)
    once = "The winner alone was asked about the test part, once, after the search."
    return [
        section(
            "Test part",
            tag("p", once, class_="note"),
            sections.tiles(test),
            tag("h3", "Classes"),
            sections.class_table(test),
            tag("h3", "Confusion"),
            matrices,
            sections.confusion_table(test),
        )
    ]


def _figures(
    results: Sequence[TrialResult],
    objective: Objective,
    *,
    test: Evaluation | None,
    max_latency_ms: float | None,
) -> dict[str, Draw]:
    """Returns the plots that there is something to draw for."""
    drawn: dict[str, Draw] = {}
    completed = [result for result in results if result.score is not None]
    if completed:
        drawn["scores"] = functools.partial(plots.scores, results, objective)
    if any(result.latency_ms is not None for result in completed):
        drawn["latency"] = functools.partial(
            plots.latency, results, objective, max_latency_ms=max_latency_ms
        )
    drawn |= _lines(results, objective)
    if rows := importances(results, objective):
        drawn["importance"] = functools.partial(plots.importance, rows, objective)
    if found := pairs(results, objective):
        drawn["ranking"] = functools.partial(plots.ranking, found, objective)
    if test is not None:
        for draw in (confusion_counts, confusion_shares):
            drawn[draw.__name__] = functools.partial(draw, test)
    return drawn


def _lines(results: Sequence[TrialResult], objective: Objective) -> dict[str, Draw]:
    """Returns the parallel coordinates of each tier; a line needs two axes."""
    heads = [result for result in results if result.tier == "head"]
    fine = [result for result in results if result.tier == "fine-tune"]
    known = list(dict.fromkeys(name for result in heads for name in result.values))
    drawn: dict[str, Draw] = {}
    for name, own, title, without in (
        ("coordinates_head", heads, "Hyperparameters of the heads", ()),
        ("coordinates_fine_tune", fine, "Hyperparameters of fine-tuning", known),
    ):
        tried = columns(own, without=without)
        if len(tried) > 1:
            drawn[name] = functools.partial(coordinates, own, objective, tried=tried, title=title)
    return drawn


def _row(result: TrialResult) -> dict[str, Any]:
    """Returns a trial as a row of the CSV; numbers are whole, not rounded."""
    return {
        "tier": result.tier,
        "trial": result.name,
        "status": result.status,
        "score": result.score,
        "mean": result.merit,
        "standard_error": result.standard_error,
        "repeats": " ".join(map(str, result.repeats)),
        "latency_ms": result.latency_ms,
        "params": result.params,
        "seconds": result.seconds,
        "reason": result.reason,
        **{f"val_{name}": value for name, value in result.metrics.items()},
        **result.values,
    }
