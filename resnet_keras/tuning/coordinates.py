"""Parallel coordinates: each trial is a line through its hyperparameters to its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from resnet_keras.evaluation.palette import Palette, figure, label
from resnet_keras.evaluation.sections import SCORES
from resnet_keras.tuning.analysis import Column
from resnet_keras.tuning.trials import Objective, TrialResult

HEIGHT, PER_AXIS, LEAST_WIDTH = 4.6, 0.85, 6.4
# Points between two axes, so that the lines are curves that can be told apart where they meet.
STEPS = 32
# Lines through one value lie side by side over this share of the height.
SPREAD = 0.035
# Where a hyperparameter is not active, on its axis from 0 to 1.
NOT_ACTIVE = -0.12
# The worst share of the scores has all the same colour, or one failure would take the scale.
CLIPPED = 0.1


def coordinates(
    results: Sequence[TrialResult],
    objective: Objective,
    palette: Palette,
    *,
    tried: Sequence[Column],
    title: str,
) -> Figure:
    """Draws the hyperparameters of each trial, coloured by its score, the best ones on top.

    Args:
        results: The trials; failed ones are grey.
        objective: What they were scored by.
        palette: The colours.
        tried: Their hyperparameters, a value a trial.
        title: What stands above.
    """
    drawn = figure(max(LEAST_WIDTH, PER_AXIS * len(tried) + 1.4), HEIGHT)
    plot = drawn.add_subplot()
    plot.set_title(title, pad=12)
    heights = np.stack([_heights(column) for column in tried], axis=1)
    lines = _curves(heights)
    scores = np.array([np.nan if each.score is None else each.score for each in results])
    failed = np.isnan(scores)
    plot.add_collection(
        LineCollection(list(lines[failed]), color=palette.muted, linewidth=1, linestyle="--")
    )
    if not failed.all():
        mapped = _mapped(scores[~failed], objective, palette)
        order = np.argsort(scores[~failed] * (-1 if objective == "loss" else 1))
        coloured = [mapped.to_rgba(score) for score in scores[~failed][order]]
        best = LineCollection(list(lines[~failed][order]), color=coloured, linewidth=1.3, alpha=0.8)
        plot.add_collection(best)
        name = f"{SCORES[objective]}{'; grey: failed' if failed.any() else ''}"
        drawn.colorbar(mapped, ax=plot, label=name, extend="min" if objective != "loss" else "max",
                       pad=0.02, fraction=0.04)  # fmt: skip
    _draw_axes(plot, tried, palette)
    return drawn


def _heights(column: Column) -> np.ndarray:
    """Returns where the lines cross the axis of a hyperparameter, from 0 to 1 or below it."""
    numbers = column.numbers
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    heights = np.where(np.isnan(numbers), NOT_ACTIVE, (numbers - low) / (high - low))
    if column.is_range:
        return heights
    side_by_side = np.linspace(-SPREAD, SPREAD, len(heights))
    np.random.default_rng(0).shuffle(side_by_side)
    return heights + side_by_side


def _curves(heights: np.ndarray) -> np.ndarray:
    """Returns lines of points, `(trials, points, 2)`, that cross each axis at a right angle."""
    share = np.linspace(0, 1, STEPS, endpoint=False)
    ease = share * share * (3 - 2 * share)
    between = heights[:, :-1, None] + np.diff(heights, axis=1)[..., None] * ease
    rows = np.concatenate([between.reshape(len(heights), -1), heights[:, -1:]], axis=1)
    places = np.linspace(0, heights.shape[1] - 1, rows.shape[1])
    return np.stack([np.broadcast_to(places, rows.shape), rows], axis=2)


def _mapped(scores: np.ndarray, objective: Objective, palette: Palette) -> ScalarMappable:
    ramp = [palette.colours[4], palette.colours[2], palette.ramp[1]]
    low, high = scores.min(), scores.max()
    if objective == "loss":
        ramp, high = ramp[::-1], np.quantile(scores, 1 - CLIPPED)
    else:
        low = np.quantile(scores, CLIPPED)
    return ScalarMappable(Normalize(low, high), LinearSegmentedColormap.from_list("score", ramp))


def _draw_axes(plot: Axes, tried: Sequence[Column], palette: Palette) -> None:
    plot.set(xlim=(-0.3, len(tried) - 0.7), ylim=(NOT_ACTIVE - 0.08, 1.08), yticks=[])
    plot.grid(visible=False)
    plot.spines[:].set_visible(False)
    names = [label(column.name).replace("_", "\n") for column in tried]
    plot.set_xticks(range(len(tried)), names, fontsize=8, color=palette.text)
    plot.tick_params(length=0)
    for place, column in enumerate(tried):
        plot.plot([place, place], [0, 1], color=palette.muted, linewidth=1)
        marks = dict(_marks(column))
        if None in column.values:
            marks[NOT_ACTIVE] = "not used"
        for height, text in marks.items():
            plot.annotate(
                text, (place, height), xytext=(3, 0), textcoords="offset points", va="center",
                fontsize=8, color=palette.text,
                bbox={"facecolor": palette.surface, "alpha": 0.75, "pad": 0.8, "linewidth": 0},
            )  # fmt: skip


def _marks(column: Column) -> list[tuple[float, str]]:
    """Returns heights and texts: the values, or of a range its ends and its middle."""
    levels = column.levels
    if not column.is_range:
        return [(place / (len(levels) - 1), _text(level)) for place, level in enumerate(levels)]
    low, high = float(levels[0]), float(levels[-1])
    middle = (low * high) ** 0.5 if column.is_log else (low + high) / 2
    return [(0.0, f"{low:.2g}"), (0.5, f"{middle:.2g}"), (1.0, f"{high:.2g}")]


def _text(level: Any) -> str:
    if isinstance(level, bool):
        return "yes" if level else "no"
    return label(level) if isinstance(level, str) else f"{level:g}"
