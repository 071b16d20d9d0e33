"""The parts of the report that are text and tables, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from resnet_keras.data import DataReport
from resnet_keras.data.report import CHANGES, first_names
from resnet_keras.evaluation.metrics import ClassScores, Evaluation
from resnet_keras.evaluation.page import Html, data_uri, joined, table, tag

CONFUSIONS = 15
NOT_DEFINED = "–"  # noqa: RUF001  (a dash stands for no value)
# A page with more rows than this hides the rest behind a click.
SHOWN_BAD = 20
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1, mean of classes",
    "roc_auc": "area under ROC",
    "loss": "cross-entropy",
    "calibration_error": "calibration error",
}
PARTS = {"train": "training", "val": "validation", "test": "test"}


def tiles(evaluation: Evaluation) -> Html:
    """Returns the numbers that stand for the whole."""
    values = evaluation.summary()
    shown = {title: _number(values[name]) for name, title in SCORES.items()}
    cells = {**shown, "pictures": f"{len(evaluation):,}"}
    return tag(
        "div",
        *(
            tag("div", tag("b", cell), tag("span", title), class_="tile")
            for title, cell in cells.items()
        ),
        class_="tiles",
    )


def _number(value: float | None) -> str:
    return NOT_DEFINED if value is None else f"{value:.4f}"


def facts_list(facts: Mapping[str, str]) -> Html:
    """Returns the facts as a list of terms."""
    terms = [joined([tag("dt", name), tag("dd", str(value))]) for name, value in facts.items()]
    return tag("dl", *terms) if facts else Html("")


def class_table(evaluation: Evaluation) -> Html:
    """Returns precision, recall, F1 and support of each class."""
    rows = [(row.name, *_shares(row), f"{row.support:,}") for row in evaluation.per_class]
    return table(["class", "precision", "recall", "F1", "pictures"], rows)


def _shares(row: ClassScores) -> list[str]:
    if not row.support:
        return [NOT_DEFINED] * 3
    return [_share(value) for value in (row.precision, row.recall, row.f1)]


def _share(value: float) -> Html:
    bar = tag("i", style=f"width:{value:.1%}")
    return tag("span", bar, tag("b", f"{value:.3f}"), class_="share")


def confusion_table(evaluation: Evaluation) -> Html:
    """Returns the pairs of classes that are most often confused; nothing without mistakes."""
    counts = evaluation.confusion.copy()
    support = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [
        pair for pair in zip(*np.unravel_index(order, counts.shape), strict=True) if counts[pair]
    ]
    names = evaluation.class_names
    rows = [
        (
            names[true],
            names[taken],
            f"{counts[true, taken]:,}",
            f"{counts[true, taken] / support[true]:.1%}",
        )
        for true, taken in pairs
    ]
    head = ["true class", "taken for", "pictures", "share of the true class"]
    return table(head, rows, class_="pairs") if rows else Html("")


def picture_grid(evaluation: Evaluation, pictures: Mapping[int, bytes | None]) -> Html:
    """Returns pictures with what they are, what they were taken for, and how surely.

    Args:
        evaluation: What the network said.
        pictures: JPEG file by index of the picture; None shows the text alone.
    """
    found = [_picture(evaluation, index, jpeg) for index, jpeg in pictures.items()]
    return tag("div", *found, class_="pictures") if found else Html("")


def _picture(evaluation: Evaluation, index: int, jpeg: bytes | None) -> Html:
    true, taken = evaluation.labels[index], evaluation.predicted[index]
    names, name = evaluation.class_names, evaluation.names[index]
    said = f"{names[taken]} ({evaluation.confidence[index]:.1%})"
    return tag(
        "figure",
        tag("img", src=data_uri(jpeg, "jpeg"), alt=name) if jpeg else Html(""),
        tag("div", "taken for ", tag("b", said), class_="right" if true == taken else "wrong"),
        tag("div", "true class ", tag("b", names[true])),
        tag("div", name, class_="file"),
        class_="picture",
    )


def data_section(report: DataReport) -> Html:
    """Returns what the data are, and what was left out, passed over or changed."""
    changes = [
        f"{changed.count:,} {CHANGES[kind]}: {first_names(changed.first, changed.count)}."
        for kind, changed in report.changed.items()
    ]
    return joined(
        [
            tag("p", f"Source: {report.source}", class_="note"),
            _counts(report.counts),
            _bad(report.bad),
            _ignored(report.ignored),
            *(tag("p", sentence) for sentence in (*changes, *report.notes)),
        ]
    )


def _counts(counts: Mapping[str, Mapping[str, int]]) -> Html:
    classes = list(dict.fromkeys(name for part in counts.values() for name in part))
    head = ["class", *(PARTS.get(part, part) for part in counts)]
    rows = [(name, *(f"{part.get(name, 0):,}" for part in counts.values())) for name in classes]
    total = ("all", *(f"{sum(part.values()):,}" for part in counts.values()))
    return table(head, [*rows, total])


def _bad(bad: Sequence[tuple[str, str]]) -> Html:
    if not bad:
        return tag("p", "No picture was left out.", class_="note")
    title = tag("h3", f"Left out: {len(bad):,} bad pictures")
    first = table(["picture", "why"], bad[:SHOWN_BAD], class_="text")
    if len(bad) <= SHOWN_BAD:
        return joined([title, first])
    rest = table(["picture", "why"], bad[SHOWN_BAD:], class_="text")
    return joined([title, first, tag("details", tag("summary", "all others"), rest)])


def _ignored(ignored: Mapping[str, int]) -> Html:
    if not ignored:
        return Html("")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in ignored.items())
    return tag("p", f"Passed over, as files that are no pictures: {kinds}.")
