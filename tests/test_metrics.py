"""`Evaluation`: its numbers against hand-computed ones, and its degenerate cases."""

import json
import math

import numpy as np
import pytest

from resnet_keras.errors import DivergedError
from resnet_keras.evaluation import Evaluation

# True class, and the probabilities of "a", "b", "c"; predicted are 0, 1, 1, 2, 1, 0.
ROWS = [
    (0, (0.7, 0.2, 0.1)),
    (0, (0.3, 0.6, 0.1)),
    (1, (0.1, 0.8, 0.1)),
    (2, (0.2, 0.2, 0.6)),
    (2, (0.0, 0.9, 0.1)),
    (0, (0.5, 0.25, 0.25)),
]


def make_evaluation(labels, probabilities, class_names=None):
    probabilities = np.asarray(probabilities)
    class_names = class_names or tuple("abcdefgh"[: probabilities.shape[1]])
    names = tuple(f"{number}.png" for number in range(len(labels)))
    return Evaluation(np.asarray(labels), probabilities, names=names, class_names=class_names)


@pytest.fixture
def known():
    labels, probabilities = zip(*ROWS, strict=True)
    return make_evaluation(labels, probabilities)


def test_accuracies_and_f1_are_those_counted_by_hand(known):
    assert known.accuracy == pytest.approx(4 / 6)
    assert known.balanced_accuracy == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    # F1 = 2 hits / (2 hits + misses + false alarms): a 4/5, b 2/4, c 2/3.
    assert known.f1 == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)


def test_loss_is_the_mean_negative_logarithm_of_the_true_class(known):
    expected = -np.mean(np.log([0.7, 0.3, 0.8, 0.6, 0.1, 0.5]))
    assert known.loss == pytest.approx(expected, rel=1e-6)


def test_confusion_has_true_classes_as_rows(known):
    assert known.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 1, 1]]


def test_each_class_has_its_precision_recall_f1_and_support(known):
    rows = [tuple(row) for row in known.per_class]
    assert [row[0] for row in rows] == ["a", "b", "c"]
    expected = [(1, 2 / 3, 4 / 5, 3), (1 / 3, 1, 1 / 2, 1), (1, 1 / 2, 2 / 3, 2)]
    np.testing.assert_allclose([row[1:] for row in rows], expected)


def test_area_under_roc_is_the_share_of_pairs_in_the_right_order():
    labels, scores = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8, 0.35, 0.6])
    pairs = scores[labels == 1][:, None] - scores[labels == 0]
    expected = (np.count_nonzero(pairs > 0) + np.count_nonzero(pairs == 0) / 2) / pairs.size
    evaluation = make_evaluation(labels, np.stack([1 - scores, scores], axis=1))
    assert evaluation.roc_auc == pytest.approx(expected)
    assert [curve.label for curve in evaluation.roc_curves] == [1]


def test_area_under_roc_of_several_classes_is_the_mean_of_one_against_the_rest(known):
    areas = []
    for label in range(3):
        scores, true = known.probabilities[:, label], known.labels == label
        pairs = scores[true][:, None] - scores[~true]
        areas.append(((pairs > 0) + (pairs == 0) / 2).mean())
    assert known.roc_auc == pytest.approx(np.mean(areas))


def test_calibration_error_is_the_gap_weighted_by_pictures():
    # Ten pictures at 0.9, of which eight are right; ten at 0.6, of which six are.
    sure = [(0.9, 0.1)] * 10 + [(0.6, 0.4)] * 10
    labels = [0] * 8 + [1] * 2 + [0] * 6 + [1] * 4
    evaluation = make_evaluation(labels, sure)
    assert evaluation.calibration_error == pytest.approx(0.5 * 0.1 + 0.5 * 0.0, abs=1e-6)
    assert [each.pictures for each in evaluation.calibration] == [10, 10]


def test_mistakes_come_with_the_surest_first(known):
    assert known.mistakes().tolist() == [4, 1]
    assert known.mistakes(1).tolist() == [4]


def test_least_sure_pictures_come_first(known):
    assert known.least_sure(3).tolist() == [5, 1, 3]


def test_subset_keeps_what_the_mask_picks(known):
    part = known.subset(known.labels == 2)
    assert part.names == ("3.png", "4.png")
    assert part.confusion.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_empty_subset_is_refused(known):
    with pytest.raises(ValueError, match="at least one picture"):
        known.subset(np.zeros(len(known), bool))


def test_dictionary_survives_json(known):
    values = json.loads(json.dumps(known.to_dict()))
    assert values["pictures"] == 6
    assert values["per_class"][1]["support"] == 1
    assert values["accuracy"] == known.accuracy


def test_text_is_a_table_whose_columns_line_up():
    names = ("ash", "猫", "a\x1b[31mb")
    text = str(make_evaluation([0, 1, 2], np.eye(3), class_names=names))
    assert "accuracy 1.0000" in text
    assert "\x1b" not in text
    rows = text.splitlines()[-3:]
    # The Chinese character is as wide as two others.
    assert [len(row) for row in rows] == [len(rows[0]), len(rows[0]) - 1, len(rows[0])]


# Degenerate cases


def test_class_without_pictures_counts_neither_for_nor_against():
    evaluation = make_evaluation([0, 1, 1], [(0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.8, 0.1)])
    assert (evaluation.balanced_accuracy, evaluation.f1, evaluation.roc_auc) == (1, 1, 1)
    assert tuple(evaluation.per_class[2]) == ("c", 0, 0, 0, 0)


def test_class_that_is_only_predicted_lowers_f1_but_not_balanced_accuracy():
    evaluation = make_evaluation([0, 0], [(0.9, 0.1), (0.2, 0.8)])
    assert evaluation.balanced_accuracy == 0.5
    assert evaluation.f1 == pytest.approx((2 / 3 + 0) / 2)


def test_single_picture_has_all_numbers_but_the_roc():
    evaluation = make_evaluation([1], [(0.25, 0.75)])
    assert evaluation.roc_auc is None
    assert evaluation.loss == pytest.approx(-math.log(0.75))
    assert evaluation.to_dict()["accuracy"] == 1


def test_perfect_score_has_no_mistakes_and_no_loss():
    evaluation = make_evaluation([0, 1], np.eye(2))
    assert evaluation.mistakes().size == 0
    assert evaluation.loss == pytest.approx(0, abs=1e-6)
    assert evaluation.calibration_error == 0


def test_certainty_in_the_wrong_class_has_a_finite_loss():
    assert 10 < make_evaluation([0], [(0.0, 1.0)]).loss < 20


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_no_numbers_are_refused(value):
    with pytest.raises(DivergedError, match=r"1 of 2 pictures, '1.png'"):
        make_evaluation([0, 1], [(0.5, 0.5), (value, 0.5)])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0], [(1.0,)], "two classes"),
        ([0, 1], [(0.5, 0.5)], "shape"),
        ([0, 2], [(0.5, 0.5), (0.5, 0.5)], r"\[0, 2\)"),
        ([0, -1], [(0.5, 0.5), (0.5, 0.5)], r"\[0, 2\)"),
        ([0.0, 1.0], [(0.5, 0.5), (0.5, 0.5)], "integers"),
        ([0, 1], [(2.0, -1.0), (0.5, 0.5)], "softmax"),
        ([0, 1], [(3.0, 4.0), (0.5, 0.5)], "softmax"),
    ],
)
def test_values_out_of_range_are_refused(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        make_evaluation(labels, probabilities)


def test_pictures_are_counted_in_whole_numbers_where_every_answer_is_wrong():
    wrong = Evaluation(
        np.array([0, 1, 1]),
        np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]]),
        names=("a", "b", "c"),
        class_names=("cat", "dog"),
    )
    assert [(row.support, type(row.support)) for row in wrong.per_class] == [(1, int), (2, int)]
    assert "dog" in str(wrong)
