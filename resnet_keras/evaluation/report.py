"""`write_report`: one HTML page that holds everything, and its plots as PNG files."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from resnet_keras.atomic import write_atomically
from resnet_keras.data import DataReport, Images
from resnet_keras.errors import RunError
from resnet_keras.evaluation import plots, sections
from resnet_keras.evaluation.history import History, Row
from resnet_keras.evaluation.metrics import Evaluation
from resnet_keras.evaluation.page import Html, page, plot_image, section, tag
from resnet_keras.evaluation.palette import LIGHT, Palette, label, render, render_both

REPORT = "report.html"
PLOTS = "plots"
# Of the plots on the page, what to say where they cannot be seen.
ON_PAGE = {
    "curves": "Loss, accuracy and learning rate over the epochs",
    "confusion_counts": "Confusion matrix, number of pictures",
    "confusion_shares": "Confusion matrix, share of the true class",
    "roc": "Receiver operating characteristic",
    "calibration": "How often the network is right over how sure it is",
}
# The page shows these as a table and as single pictures.
ON_FILE = ("per_class", "mistakes", "least_sure")
SHEETS = {"mistakes": ("Surest mistakes", 24), "least_sure": ("Least sure", 12)}
# In pixels; a picture on the page is at most this wide.
THUMBNAIL = 200
# More classes than these make a confusion matrix that takes the width of the page.
SMALL_MATRIX = 12

Draw = Callable[[Palette], Figure]


class Sheet(NamedTuple):
    """Pictures that the report shows: their indices, and their pixels where these are known."""

    title: str
    indices: list[int]
    pixels: Mapping[int, np.ndarray]


def write_report(
    folder: Path,
    *,
    evaluation: Evaluation | None,
    history: Sequence[Row],
    data_report: DataReport | None,
    images: Images | None,
    title: str,
    facts: Mapping[str, str],
    monitor: str = "accuracy",
) -> Path:
    """Writes `report.html`, which needs no other file, and its plots as `plots/*.png`.

    Args:
        folder: Where to write; made if missing.
        evaluation: What the network said about `images`; None leaves out all that is about it.
        history: One row an epoch with "phase", "epoch", "loss", "accuracy", "learning_rate" and,
            where there is a validation part, "val_loss", "val_accuracy"; may be empty.
        data_report: What was found, left out and changed; None leaves it out.
        images: The pictures that were evaluated, for thumbnails; None leaves these out.
        title: What stands above.
        facts: Lines for the head of the report: weights, licence, seed.
        monitor: Metric of the validation part that says which epoch is the best.

    Returns:
        The path of the page.

    Raises:
        RunError: If a file cannot be written; what was there before stays as it was.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from resnet_keras.evaluation import write_report
        >>> nothing = {"evaluation": None, "history": [], "data_report": None, "images": None}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(Path(folder), **nothing, title="A run", facts={"Seed": "0"}).name
        'report.html'
    """
    sheets = _sheets(evaluation, images) if evaluation else {}
    drawn = _figures(evaluation, History(history, monitor=monitor), sheets)
    files, figures = {}, {}
    for name, draw in drawn.items():
        if name in ON_FILE:
            files[name] = render(draw, LIGHT)
            continue
        files[name], dark = render_both(draw)
        figures[name] = plot_image(
            files[name], dark, alternative=ON_PAGE[name], class_=_size(name, evaluation)
        )
    document = page(
        title,
        tag("h1", title),
        tag("p", "Report of an image classifier", class_="lead"),
        sections.tiles(evaluation) if evaluation else Html(""),
        section("Facts", sections.facts_list(facts)),
        section("Training", figures.get("curves", Html(""))),
        *(_about(evaluation, figures, sheets) if evaluation else []),
        section("Data", sections.data_section(data_report) if data_report else Html("")),
    )
    write_plots(Path(folder) / PLOTS, files, known=(*ON_PAGE, *ON_FILE))
    return write_atomically(Path(folder) / REPORT, [document.encode()], RunError)


def _about(
    evaluation: Evaluation, figures: Mapping[str, Html], sheets: Mapping[str, Sheet]
) -> list[Html]:
    """Returns the sections about what the network said."""
    large = len(evaluation.class_names) > SMALL_MATRIX
    matrices = tag(
        "div",
        figures["confusion_counts"],
        figures["confusion_shares"],
        class_="" if large else "plots",
    )
    lines = [figures[name] for name in ("roc", "calibration") if name in figures]
    return [
        section("Confusion", matrices, sections.confusion_table(evaluation)),
        section("Classes", sections.class_table(evaluation)),
        section("ROC and calibration", tag("div", *lines, class_="plots")),
        *(section(sheet.title, _grid(evaluation, sheet)) for sheet in sheets.values()),
    ]


def _grid(evaluation: Evaluation, sheet: Sheet) -> Html:
    pictures = {
        index: _thumbnail(sheet.pixels[index]) if index in sheet.pixels else None
        for index in sheet.indices
    }
    return sections.picture_grid(evaluation, pictures)


def _size(name: str, evaluation: Evaluation | None) -> str:
    if name == "curves":
        return "wide"
    crowded = evaluation is not None and len(evaluation.class_names) > SMALL_MATRIX
    return "large" if crowded and name.startswith("confusion") else ""


def _figures(
    evaluation: Evaluation | None, history: History, sheets: Mapping[str, Sheet]
) -> dict[str, Draw]:
    """Returns the plots that there is something to draw for."""
    drawn: dict[str, Draw] = {}
    if len(history):
        drawn["curves"] = functools.partial(plots.curves, history)
    if evaluation is None:
        return drawn
    for draw in (
        plots.confusion_counts,
        plots.confusion_shares,
        plots.per_class,
        plots.calibration,
    ):
        drawn[draw.__name__] = functools.partial(draw, evaluation)
    if evaluation.roc_curves:
        drawn["roc"] = functools.partial(plots.roc, evaluation)
    for name, sheet in sheets.items():
        if sheet.indices and len(sheet.pixels) == len(sheet.indices):
            drawn[name] = _sheet_figure(evaluation, sheet)
    return drawn


def _sheet_figure(evaluation: Evaluation, sheet: Sheet) -> Draw:
    return functools.partial(
        plots.contact_sheet,
        np.stack([sheet.pixels[index] for index in sheet.indices]),
        [_caption(evaluation, index) for index in sheet.indices],
        title=sheet.title,
    )


def _caption(evaluation: Evaluation, index: int) -> str:
    true, taken = evaluation.labels[index], evaluation.predicted[index]
    names = [label(evaluation.class_names[each]) for each in (taken, true)]
    file = label(Path(evaluation.names[index]).name)
    return f"{names[0]} ({evaluation.confidence[index]:.0%})\ntrue: {names[1]}\n{file}"


def _sheets(evaluation: Evaluation, images: Images | None) -> dict[str, Sheet]:
    chosen = {"mistakes": evaluation.mistakes(), "least_sure": evaluation.least_sure()}
    sheets = {}
    for name, (title, limit) in SHEETS.items():
        indices = chosen[name][:limit].tolist()
        sheets[name] = Sheet(title, indices, _pixels(evaluation, images, indices))
    return sheets


def _pixels(
    evaluation: Evaluation, images: Images | None, indices: Sequence[int]
) -> dict[int, np.ndarray]:
    """Returns the pictures by index, found by name: an evaluation may be of some of them."""
    if images is None:
        return {}
    places = {name: place for place, name in enumerate(images.names)}
    known = [index for index in indices if evaluation.names[index] in places]
    found = images.pictures([places[evaluation.names[index]] for index in known])
    return dict(zip(known, found, strict=True))


def _thumbnail(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def write_plots(folder: Path, files: Mapping[str, bytes], *, known: Iterable[str]) -> None:
    """Writes plots, and removes those that an earlier report had and this one has not.

    Args:
        folder: Where to.
        files: PNG files by name.
        known: Names of all plots that a report may have.

    Raises:
        RunError: If one cannot be written.
    """
    for name in known:
        path = folder / f"{name}.png"
        if name in files:
            write_atomically(path, [files[name]], RunError)
        else:
            # One that cannot be removed takes nothing from the page, which stands by itself.
            with contextlib.suppress(OSError):
                path.unlink()
