"""`Evaluation`: labels and probabilities of one part of the data, and every number from them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import sklearn.metrics
from rich.cells import cell_len, set_cell_size

from resnet_keras.errors import DivergedError
from resnet_keras.evaluation.text import printable, shortened

# float32 softmax over thousands of classes sums to 1 within a few 1e-6.
SUM_TOLERANCE = 1e-4
# Guo et al. 2017, arXiv 1706.04599, section 2.
CALIBRATION_BINS = 15
NAME_WIDTH = 32


class ClassScores(NamedTuple):
    """Scores of one class; a ratio whose denominator is 0 counts as 0."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class Bin(NamedTuple):
    """Pictures whose highest probability lies in one bin: how sure, how often right, how many."""

    confidence: float
    accuracy: float
    pictures: int


class RocCurve(NamedTuple):
    """One class against the rest: false and true positive rates, and the area below."""

    label: int
    false_positives: np.ndarray
    true_positives: np.ndarray
    area: float


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network said about pictures whose classes are known.

    Args:
        labels: True class of each picture, integers in [0, classes), `(pictures,)`.
        probabilities: Rows in [0, 1] that sum to 1, `(pictures, classes)`; kept as float32.
        names: A name for each picture, its path for instance.
        class_names: A name for each class.

    Raises:
        ValueError: If the shapes do not agree, or a value is out of range.
        DivergedError: If a probability is no finite number.

    Example:
        >>> from resnet_keras.evaluation import Evaluation
        >>> result = Evaluation([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]],
        ...                     names=("a", "b", "c"), class_names=("cat", "dog"))
        >>> round(result.accuracy, 3), result.confusion.tolist()
        (0.667, [[1, 0], [1, 1]])
    """

    labels: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        labels, probabilities = np.asarray(self.labels), np.asarray(self.probabilities)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        _check_shapes(labels, probabilities, self)
        _check_probabilities(probabilities, self.names)
        _check_labels(labels, len(self.class_names))
        object.__setattr__(self, "labels", labels.astype(np.int32))
        object.__setattr__(self, "probabilities", probabilities.astype(np.float32))

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """Most probable class of each picture, `(pictures,)`."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int32)

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable class, `(pictures,)`."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def accuracy(self) -> float:
        """Share of the pictures whose most probable class is the true one."""
        return float(sklearn.metrics.accuracy_score(self.labels, self.predicted))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have pictures."""
        # sklearn's balanced_accuracy_score warns where a class was predicted that has none.
        return float(
            sklearn.metrics.recall_score(
                self.labels,
                self.predicted,
                labels=np.unique(self.labels),
                average="macro",
                zero_division=0,
            )
        )

    @property
    def f1(self) -> float:
        """Mean F1 over the classes that occur, be it as the true or as the predicted one."""
        return float(
            sklearn.metrics.f1_score(self.labels, self.predicted, average="macro", zero_division=0)
        )

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        classes = np.arange(len(self.class_names))
        return float(sklearn.metrics.log_loss(self.labels, self.probabilities, labels=classes))

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Number of pictures by true (row) and predicted (column) class, `(classes, classes)`."""
        classes = np.arange(len(self.class_names))
        matrix = sklearn.metrics.confusion_matrix(self.labels, self.predicted, labels=classes)
        return np.asarray(matrix)

    @functools.cached_property
    def per_class(self) -> list[ClassScores]:
        """Precision, recall, F1 and number of pictures, a row a class."""
        scores = sklearn.metrics.precision_recall_fscore_support(
            self.labels,
            self.predicted,
            labels=np.arange(len(self.class_names)),
            zero_division=0,
        )
        rows = zip(self.class_names, *(column.tolist() for column in scores), strict=True)
        # scikit-learn counts in floats where no prediction is right.
        return [
            ClassScores(name, precision, recall, f1, int(support))
            for name, precision, recall, f1, support in rows
        ]

    @functools.cached_property
    def roc_curves(self) -> list[RocCurve]:
        """Curves of the classes that have pictures and are not the only ones that have.

        With two classes the one curve of the second class, which says all that the first would.
        """
        first = 1 if len(self.class_names) == 2 else 0
        return [
            self._roc_curve(index)
            for index in range(first, len(self.class_names))
            if 0 < np.count_nonzero(self.labels == index) < len(self)
        ]

    def _roc_curve(self, index: int) -> RocCurve:
        false, true, _ = sklearn.metrics.roc_curve(
            self.labels == index, self.probabilities[:, index]
        )
        return RocCurve(index, false, true, float(sklearn.metrics.auc(false, true)))

    @property
    def roc_auc(self) -> float | None:
        """Mean area under `roc_curves`, None where there is none."""
        areas = [curve.area for curve in self.roc_curves]
        return float(np.mean(areas)) if areas else None

    @functools.cached_property
    def calibration(self) -> list[Bin]:
        """The 15 bins of equal width of the highest probability that have pictures."""
        edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
        bins = np.digitize(self.confidence, edges, right=True)
        right = self.labels == self.predicted
        members = (bins == number for number in range(CALIBRATION_BINS))
        return [
            Bin(float(self.confidence[those].mean()), float(right[those].mean()), int(those.sum()))
            for those in members
            if those.any()
        ]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean gap of confidence and accuracy over `calibration`."""
        gaps = (abs(each.confidence - each.accuracy) * each.pictures for each in self.calibration)
        return sum(gaps) / len(self)

    def mistakes(self, limit: int | None = None) -> np.ndarray:
        """Returns the indices of the pictures taken for another class, the surest first."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:limit]

    def least_sure(self, limit: int | None = None) -> np.ndarray:
        """Returns the indices of all pictures, the lowest highest probability first."""
        return np.argsort(self.confidence, kind="stable")[:limit]

    def subset(self, mask: np.ndarray) -> Evaluation:
        """Returns the evaluation of the pictures that a mask, or an array of indices, picks.

        Raises:
            ValueError: If it picks none.
        """
        indices = np.arange(len(self))[mask]
        return Evaluation(
            labels=self.labels[indices],
            probabilities=self.probabilities[indices],
            names=tuple(self.names[index] for index in indices),
            class_names=self.class_names,
        )

    def summary(self) -> dict[str, float | None]:
        """Returns the numbers that stand for the whole, by name; None where not defined."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "f1": self.f1,
            "roc_auc": self.roc_auc,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers, but not the single pictures, as a dictionary that JSON can hold."""
        return {
            "pictures": len(self),
            **self.summary(),
            "class_names": list(self.class_names),
            "confusion": self.confusion.tolist(),
            "per_class": [row._asdict() for row in self.per_class],
        }

    def __str__(self) -> str:
        names = [shortened(name, NAME_WIDTH) for name in self.class_names]
        width = max(cell_len(name) for name in [*names, "class"])
        lines = [
            f"{len(self)} pictures, accuracy {self.accuracy:.4f}, balanced accuracy "
            f"{self.balanced_accuracy:.4f}, F1 {self.f1:.4f}",
            "",
            f"{'class':{width}}  precision  recall      F1  pictures",
        ]
        for name, row in zip(names, self.per_class, strict=True):
            scores = f"{row.precision:9.4f}  {row.recall:6.4f}  {row.f1:6.4f}  {row.support:8d}"
            lines.append(f"{set_cell_size(name, width)}  {scores}")
        return "\n".join(lines)


def _check_shapes(labels: np.ndarray, probabilities: np.ndarray, names: Evaluation) -> None:
    expected = (len(names.names), len(names.class_names))
    if expected[0] < 1 or expected[1] < 2:
        raise ValueError(
            "An evaluation needs at least one picture and two classes. "
            f"Received: {expected[0]} pictures and {expected[1]} classes"
        )
    if labels.shape != expected[:1] or probabilities.shape != expected:
        raise ValueError(
            f"`labels` must have the shape {expected[:1]} and `probabilities` {expected}, one row "
            "a name and one column a class. "
            f"Received: shapes {labels.shape} and {probabilities.shape}"
        )


def _check_probabilities(probabilities: np.ndarray, names: tuple[str, ...]) -> None:
    broken = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if broken.size:
        raise DivergedError(
            f"The network returned no finite numbers for {broken.size} of {len(names)} pictures, "
            f"{printable(names[broken[0]])!r} first: its weights are not usable, go back to an "
            "earlier checkpoint."
        )
    sums = probabilities.sum(axis=1)
    if probabilities.min() < 0 or not np.allclose(sums, 1, rtol=0, atol=SUM_TOLERANCE):
        raise ValueError(
            "`probabilities` must not be negative and each row must sum to 1; apply softmax to "
            f"logits. Received: values from {probabilities.min():g} to {probabilities.max():g}, "
            f"sums from {sums.min():g} to {sums.max():g}"
        )


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"`labels` must be integers. Received: dtype {labels.dtype}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"`labels` must lie in [0, {num_classes}), one number a class. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
