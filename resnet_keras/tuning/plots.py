"""The figures of a search: each function draws one, in the colours of a palette."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from resnet_keras.evaluation.palette import Palette, axes, label
from resnet_keras.evaluation.plots import HEIGHT, WIDTH
from resnet_keras.evaluation.sections import SCORES
from resnet_keras.tuning.analysis import (
    LOG_RATIO,
    Importance,
    Pair,
    best_of_cuts,
    cuts_on_front,
    rank_correlation,
)
from resnet_keras.tuning.trials import Objective, TrialResult, is_better

WIDE = 8.2
# By tier; of colour and marker.
TIERS = (("head", "heads on cached features", "o"), ("fine-tune", "fine-tuned networks", "D"))
MARKERS = "oDsP"
NAMED_IMPORTANCES = 15


def scores(results: Sequence[TrialResult], objective: Objective, palette: Palette) -> Figure:
    """Draws the objective of each trial in the order of the trials, and the best so far."""
    title = f"Validation {SCORES[objective]} by trial"
    drawn, plot = axes(WIDE, HEIGHT, title=title, x="trial", y=SCORES[objective])
    numbers = dict(zip(map(id, results), itertools.count(1)))
    for (tier, name, marker), colour in zip(TIERS, palette.colours, strict=False):
        own = [each for each in results if each.tier == tier]
        if not own:
            continue
        done = [each for each in own if each.score is not None]
        places = [numbers[id(each)] for each in done]
        found = np.array([each.score for each in done], float)
        plot.plot(places, found, marker, color=colour, alpha=0.55, label=name)
        if done:
            best = (np.minimum if objective == "loss" else np.maximum).accumulate(found)
            ends = [*places, numbers[id(own[-1])] + 0.5]
            plot.step(
                ends, [*best, best[-1]], where="post", color=colour, label="best of them so far"
            )
    failed = [numbers[id(each)] for each in results if each.status == "FAILED"]
    _mark_failed(plot, failed, palette)
    _scale(plot, "y", [each.score for each in results if each.score], log=objective == "loss")
    plot.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plot.set_xlim(0.5, len(results) + 0.5)
    drawn.legend(loc="outside lower center", ncols=5)
    return drawn


def _mark_failed(plot: Axes, places: Sequence[int], palette: Palette) -> None:
    if places:
        plot.plot(
            places,
            [0.03] * len(places),
            "x",
            transform=plot.get_xaxis_transform(),
            color=palette.text,
            markersize=5,
            label="failed",
        )


def _scale(plot: Axes, axis: str, values: Sequence[float], *, log: bool = True) -> None:
    """Makes an axis logarithmic, with plain numbers, where the values lie far apart."""
    if not log or not values or min(values) <= 0 or max(values) / min(values) < LOG_RATIO:
        return
    plot.set(**{f"{axis}scale": "log"})
    ticks = plot.xaxis if axis == "x" else plot.yaxis
    ticks.set_major_formatter(ScalarFormatter())
    ticks.set_minor_formatter(NullFormatter())


def latency(
    results: Sequence[TrialResult],
    objective: Objective,
    palette: Palette,
    *,
    max_latency_ms: float | None,
) -> Figure:
    """Draws the objective over the time for a picture, and the Pareto front.

    The best trial of each backbone and last stage is large and has the number of the stage in it.
    """
    title = f"Validation {SCORES[objective]} over latency"
    x = "milliseconds for one picture"
    drawn, plot = axes(WIDE, 4.8, title=title, x=x, y=SCORES[objective])
    best = best_of_cuts(results, objective)
    names = list(dict.fromkeys(name for name, _ in best))
    looks = dict(zip(names, itertools.cycle(palette.colours), strict=False))
    markers = {name: MARKERS[number // len(palette.colours)] for number, name in enumerate(names)}
    for result in results:
        if result.merit is not None and result.latency_ms is not None:
            name = result.values["backbone"]
            plot.plot(result.latency_ms, result.merit, markers[name], color=looks[name], alpha=0.3)
    front = cuts_on_front(best, objective)
    _draw_front(plot, [best[cut] for cut in front], palette)
    for cut, result in best.items():
        _draw_best(plot, cut, result, colour=looks[cut[0]], marker=markers[cut[0]], palette=palette)
    if max_latency_ms is not None:
        plot.axvline(max_latency_ms, color=palette.muted, linestyle="--")
    _scale(plot, "x", [result.latency_ms or 0.0 for result in best.values()])
    _legend(drawn, looks, markers, palette=palette, budget=max_latency_ms)
    return drawn


def _draw_front(plot: Axes, front: Sequence[TrialResult], palette: Palette) -> None:
    plot.step(
        *zip(*map(_point, front), strict=True),
        where="post",
        color=palette.text,
        linewidth=1.2,
        zorder=2.5,
    )


def _point(result: TrialResult) -> tuple[float, float]:
    """Returns where a trial lies whose latency and merit are known."""
    return result.latency_ms or 0.0, result.merit or 0.0


def _draw_best(
    plot: Axes,
    cut: tuple[str, int],
    result: TrialResult,
    *,
    colour: str,
    marker: str,
    palette: Palette,
) -> None:
    point = _point(result)
    plot.errorbar(
        *point,
        yerr=result.standard_error,
        fmt=marker,
        color=colour,
        markersize=11,
        markeredgecolor=palette.surface,
        capsize=3,
        elinewidth=1.2,
        zorder=3,
    )
    plot.annotate(
        str(cut[1]),
        point,
        ha="center",
        va="center_baseline",
        fontsize=7,
        fontweight="bold",
        color=palette.surface,
        zorder=3.1,
    )


def _legend(
    drawn: Figure,
    looks: Mapping[str, str],
    markers: Mapping[str, str],
    *,
    palette: Palette,
    budget: float | None,
) -> None:
    entries = [
        Line2D([], [], color=colour, marker=markers[name], linestyle="", markersize=7,
               label=label(name))
        for name, colour in looks.items()
    ]  # fmt: skip
    entries.append(Line2D([], [], color=palette.text, linewidth=1.2, label="Pareto front"))
    if budget is not None:
        name = f"budget, {budget:g} ms"
        entries.append(Line2D([], [], color=palette.muted, linestyle="--", label=name))
    title = "the number in a marker is the last stage, its line the standard error"
    drawn.legend(
        handles=entries, loc="outside lower center", ncols=5, title=title, title_fontsize=8
    )


def importance(rows: Sequence[Importance], objective: Objective, palette: Palette) -> Figure:
    """Draws how much each hyperparameter matters, the most important one on top."""
    rows = rows[:NAMED_IMPORTANCES][::-1]
    title, x = (
        "What mattered for the heads",
        f"rise of the error in {SCORES[objective]} when it is shuffled",
    )
    drawn, plot = axes(WIDTH, 1.4 + 0.24 * len(rows), title=title, x=x, y="")
    plot.barh(
        range(len(rows)),
        [row.mean for row in rows],
        xerr=[row.spread for row in rows],
        color=palette.colours[0],
        error_kw={"ecolor": palette.muted, "capsize": 2, "elinewidth": 1},
        height=0.62,
    )
    plot.grid(visible=False, axis="y")
    plot.axvline(0, color=palette.muted, linewidth=1)
    plot.set_yticks(range(len(rows)), [label(row.name.replace("_", " ")) for row in rows])
    plot.xaxis.set_major_locator(MaxNLocator(nbins=6))
    return drawn


def ranking(pairs: Sequence[Pair], objective: Objective, palette: Palette) -> Figure:
    """Draws what fine-tuning made of each head over what the head alone reached."""
    title, correlation = "Does the quick search rank as fine-tuning does?", rank_correlation(pairs)
    name = SCORES[objective]
    x, y = f"{name} of the head alone", f"{name} after fine-tuning"
    drawn, plot = axes(WIDTH, 4.2, title=title, x=x, y=y)
    plot.margins(0.12)
    plot.plot(
        [pair.head for pair in pairs],
        [pair.fine_tuned for pair in pairs],
        "o",
        color=palette.colours[0],
        markersize=7,
    )
    start = (pairs[0].head, pairs[0].head)
    plot.axline(start, slope=1, color=palette.muted, linestyle=":", label="no change")
    for pair in pairs:
        above = is_better(pair.fine_tuned, pair.head, "accuracy")
        plot.annotate(
            label(pair.name), (pair.head, pair.fine_tuned), xytext=(0, 7 if above else -7),
            textcoords="offset points", ha="center", va="bottom" if above else "top",
            fontsize=7, color=palette.muted,
        )  # fmt: skip
    found = f"Spearman's rank correlation: {correlation:.2f}" if correlation is not None else None
    drawn.legend(loc="outside lower center", title=found, title_fontsize=8)
    return drawn
