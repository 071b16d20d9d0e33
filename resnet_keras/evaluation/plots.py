"""The figures of the report: each function draws one, in the colours of a palette."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from resnet_keras.evaluation.history import History, Panel
from resnet_keras.evaluation.metrics import ClassScores, Evaluation, RocCurve
from resnet_keras.evaluation.palette import Palette, axes, figure, label

WIDTH, HEIGHT = 5.4, 3.8
# Numbers in the cells of a larger confusion matrix cannot be read.
NUMBERED_CLASSES = 20
# In inches: a cell with a number in it, a line of 7 points.
CELL, LINE = 0.4, 0.17
NAMED_CURVES = 6
NAMED_TICKS = 130
COLUMNS = 6


def curves(history: History, palette: Palette) -> Figure:
    """Draws loss, accuracy and learning rate over the epochs of all phases."""
    drawn = figure(6.4, 5.8)
    panels = history.panels()
    ratios = [2.0 if panel.validation is not None else 1.2 for panel in panels]
    plots = drawn.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for panel, plot in zip(panels, plots, strict=True):
        _draw_panel(plot, panel, history=history, palette=palette)
    _name_phases(plots[0], history, palette)
    plots[-1].set_xlabel("epoch")
    plots[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plots[-1].set_xlim(0.5, len(history) + 0.5)
    return drawn


def _draw_panel(plot: Axes, panel: Panel, *, history: History, palette: Palette) -> None:
    epochs = np.arange(1, len(history) + 1)
    training, validation = palette.colours[:2]
    if panel.training is not None:
        plot.plot(epochs, panel.training, "o-", color=training, label="training")
    if panel.validation is not None:
        plot.plot(epochs, panel.validation, "o-", color=validation, label="validation")
    plot.set_ylabel(panel.title)
    if panel.logarithmic:
        plot.set_yscale("log")
    for border in history.borders:
        plot.axvline(border + 0.5, color=palette.muted, linestyle="--", linewidth=1)
    if history.best is not None:
        _mark_best(plot, panel, best=history.best, palette=palette)
    if panel.validation is not None:
        plot.legend(loc="best", ncols=3)


def _mark_best(plot: Axes, panel: Panel, *, best: int, palette: Palette) -> None:
    plot.axvline(best + 1, color=palette.colours[2], linewidth=5, alpha=0.25)
    if panel.validation is not None:
        value = panel.validation[best]
        name = f"best, epoch {best + 1}"
        plot.plot(best + 1, value, "*", color=palette.colours[2], markersize=11, label=name)


def _name_phases(plot: Axes, history: History, palette: Palette) -> None:
    starts = [0, *history.borders]
    # Level names of many phases would run into each other.
    slope = 0 if len(starts) <= 4 else 30
    for start, name in zip(starts, history.phase_names, strict=True):
        plot.annotate(
            label(name),
            (start + 0.6, 1.02),
            xycoords=("data", "axes fraction"),
            color=palette.muted,
            fontsize=8,
            rotation=slope,
        )


def confusion_counts(evaluation: Evaluation, palette: Palette) -> Figure:
    """Draws the number of pictures by true and predicted class."""
    title = "Confusion matrix: pictures"
    return _matrix(evaluation.class_names, evaluation.confusion, palette, title=title, form=".0f")


def confusion_shares(evaluation: Evaluation, palette: Palette) -> Figure:
    """Draws the share of each true class that went to each predicted class."""
    # A class without pictures has a row of zeros.
    support = np.maximum(evaluation.confusion.sum(axis=1, keepdims=True), 1)
    shares, title = evaluation.confusion / support, "Confusion matrix: share of the true class"
    return _matrix(evaluation.class_names, shares, palette, title=title, form=".0%")


def _matrix(
    names: Sequence[str], values: np.ndarray, palette: Palette, *, title: str, form: str
) -> Figure:
    """Colours the cells, and writes the values into them where there is room."""
    number, top = len(values), values.max()
    side = min(max(2.4 + (CELL if number <= NUMBERED_CLASSES else LINE) * number, 4.6), 18.0)
    drawn, plot = axes(side + 0.6, side, title=title, x="predicted class", y="true class")
    plot.grid(visible=False)
    _name_ticks(plot, names)
    colours = LinearSegmentedColormap.from_list("ramp", palette.ramp)
    image = plot.imshow(values, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    if number > NUMBERED_CLASSES:
        ticks = MaxNLocator(nbins=5, integer=top > 1)
        drawn.colorbar(image, ax=plot, shrink=0.5, ticks=ticks, format=f"{{x:{form}}}")
        return drawn
    for row, column in np.ndindex(values.shape):
        plot.text(
            column,
            row,
            format(values[row, column], form) if values[row, column] or number <= 4 else "",
            ha="center",
            va="center",
            fontsize=9 if number <= 10 else 7,
            color=palette.surface if values[row, column] > top / 2 else palette.text,
        )
    return drawn


def _name_ticks(plot: Axes, names: Sequence[str]) -> None:
    number = len(names)
    ticks = list(range(0, number, math.ceil(number / NAMED_TICKS)))
    labels = [label(names[tick]) for tick in ticks]
    size = 8 if number <= NUMBERED_CLASSES else 7
    plot.set_xticks(ticks, labels, rotation=90 if number > 4 else 0, fontsize=size)
    plot.set_yticks(ticks, labels, fontsize=size)


def per_class(evaluation: Evaluation, palette: Palette) -> Figure:
    """Draws precision, recall and F1 of each class, the weakest F1 on top."""
    rows = sorted(evaluation.per_class, key=lambda row: -row.f1)
    height = min(1.4 + (0.34 if len(rows) <= 40 else 0.18) * len(rows), 60.0)
    title = "Precision, recall and F1 by class"
    drawn, plot = axes(6.4, height, title=title, x="", y="")
    places = np.arange(len(rows))
    for name, marker, colour in zip(
        ("precision", "recall", "f1"), "<>o", palette.colours, strict=False
    ):
        values = [getattr(row, name) for row in rows]
        plot.plot(values, places, marker, color=colour, label=name.replace("f1", "F1"))
    plot.set_yticks(
        places, [_with_support(row) for row in rows], fontsize=8 if len(rows) <= 40 else 6
    )
    plot.set_xlim(-0.02, 1.02)
    plot.set_ylim(-0.6, len(rows) - 0.4)
    drawn.legend(loc="outside lower center", ncols=3)
    return drawn


def _with_support(row: ClassScores) -> str:
    return f"{label(row.name)} ({row.support})"


def roc(evaluation: Evaluation, palette: Palette) -> Figure:
    """Draws true over false positives: one class of two, else each against the rest."""
    curves = sorted(evaluation.roc_curves, key=lambda curve: curve.area)
    drawn, plot = axes(WIDTH, 4.4, title="ROC", x="false positive rate", y="true positive rate")
    plot.plot([0, 1], [0, 1], ":", color=palette.muted, linewidth=1)
    crowded = len(curves) > NAMED_CURVES
    for curve in curves[NAMED_CURVES:]:
        plot.plot(
            curve.false_positives,
            curve.true_positives,
            color=palette.muted,
            alpha=0.3,
            linewidth=0.8,
        )
    for curve, colour in zip(curves[:NAMED_CURVES], palette.colours, strict=False):
        name = f"{label(evaluation.class_names[curve.label])}, {curve.area:.3f}"
        plot.plot(curve.false_positives, curve.true_positives, color=colour, label=name)
    if len(curves) > 1:
        rates, mean = macro_curve(curves)
        name = f"mean of {len(curves)} classes, {evaluation.roc_auc:.3f}"
        plot.plot(rates, mean, color=palette.text, linewidth=2.2, label=name)
    title = f"area under the curve{', weakest classes' if crowded else ''}"
    plot.legend(loc="lower right", title=title, title_fontsize=8, alignment="left")
    return drawn


def macro_curve(curves: Sequence[RocCurve]) -> tuple[np.ndarray, np.ndarray]:
    """Returns false positive rates, and the mean true positive rate of the curves there."""
    rates = np.unique(np.concatenate([curve.false_positives for curve in curves]))
    lines = [np.interp(rates, curve.false_positives, curve.true_positives) for curve in curves]
    return np.append(0.0, rates), np.append(0.0, np.mean(lines, axis=0))


def calibration(evaluation: Evaluation, palette: Palette) -> Figure:
    """Draws how often the network is right over how sure it is, and how often it is that sure."""
    drawn = figure(WIDTH, 4.4)
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence, accuracy, counts = zip(*evaluation.calibration, strict=True)
    error = evaluation.calibration_error
    upper.set_title(f"Calibration (expected error {error:.3f})")
    upper.plot([0, 1], [0, 1], ":", color=palette.muted, linewidth=1)
    upper.plot(confidence, accuracy, "o-", color=palette.colours[0])
    upper.set(ylabel="share that is right", xlim=(0, 1.02), ylim=(-0.03, 1.05))
    lower.bar(confidence, counts, width=0.03, color=palette.colours[0])
    lower.set(xlabel="highest probability", ylabel="pictures")
    lower.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    return drawn


def contact_sheet(
    pictures: np.ndarray, captions: Sequence[str], palette: Palette, *, title: str
) -> Figure:
    """Draws pictures in rows of six, each with its caption below.

    Args:
        pictures: Pixels, uint8 `(pictures, height, width, 3)`.
        captions: A text for each picture, with line breaks.
        palette: The colours.
        title: What stands above.
    """
    rows = math.ceil(len(pictures) / COLUMNS)
    drawn = figure(1.7 * COLUMNS, 2.4 * rows + 0.4)
    drawn.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    plots = drawn.subplots(rows, COLUMNS, squeeze=False).ravel()
    for plot in plots:
        plot.set_axis_off()
    for plot, picture, caption in zip(plots, pictures, captions, strict=False):
        plot.imshow(picture)
        plot.text(0.5, -0.04, caption, transform=plot.transAxes, ha="center", va="top", fontsize=7)
    return drawn
