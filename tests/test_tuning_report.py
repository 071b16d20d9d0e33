"""What a search shows: the front, what mattered, the report, its CSV, and TensorBoard."""

import csv
import dataclasses
import functools
import io
import math
import re

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from resnet_keras.errors import RunError
from resnet_keras.evaluation import Evaluation, plots
from resnet_keras.evaluation.palette import DARK, LIGHT, render, render_both
from resnet_keras.tuning.analysis import (
    Pair,
    best_of_cuts,
    columns,
    importances,
    pairs,
    pareto_front,
    rank_correlation,
)
from resnet_keras.tuning.hparams import write_hparams
from resnet_keras.tuning.merit import comparison, gain_of_fine_tuning
from resnet_keras.tuning.report import write_search_report
from resnet_keras.tuning.trials import TrialResult, ranked
from tests.test_report import Page

SCRIPT = "<script>alert(1)</script>"
LATENCIES = {("resnet18", 3): 6.0, ("resnet18", 4): 8.0, ("resnet50", 4): 25.0}


def make_head(number, *, seed=0, failed=False, **changes):
    """A tier-1 trial whose score depends on stage and learning rate, and on nothing else."""
    rng = np.random.default_rng([seed, number])
    cut = list(LATENCIES)[rng.integers(3)]
    hidden = int(rng.integers(3))
    rate = float(10 ** rng.uniform(-4, -2))
    values = {
        "backbone": cut[0],
        "stage": cut[1],
        "pooling": str(rng.choice(["avg", "max"])),
        "hidden_layers": hidden,
        **({"units": int(rng.choice([64, 128]))} if hidden else {}),
        "learning_rate": rate,
        "class_balance": bool(rng.integers(2)),
    }
    score = 0.7 + 0.1 * (cut[1] == 4) - 0.05 * abs(math.log10(rate) + 3)
    known = {"latency_ms": LATENCIES[cut], "params": 11_000_000, "seconds": 2.0}
    if failed:
        known |= {"metrics": {}, "score": None, "status": "FAILED", "reason": f"It is {SCRIPT}."}
    else:
        known |= {"metrics": {"loss": 1 - score}, "score": score, "status": "COMPLETED"}
    return TrialResult(tier="head", name=f"{number:04d}", values=values, **known | changes)


def make_fine(number, head, score, *, repeats=(), **changes):
    values = {**head.values, "head": head.name, "start": ["stage4", "head"][number % 2]}
    if number % 2 == 0:
        values["layer_decay"] = [0.4, 1.0][number // 2 % 2]
    known = {"status": "COMPLETED", "metrics": {"loss": 0.25}, "score": score, "repeats": repeats}
    return TrialResult(
        tier="fine-tune", name=f"{number:04d}", values=values, latency_ms=head.latency_ms,
        params=head.params, **known | changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def search():
    """Twenty-four heads of which two failed, and five fine-tuned networks of which one failed."""
    heads = [make_head(number, failed=number in (3, 17)) for number in range(24)]
    best = ranked(heads, "accuracy")[:4]
    fine = [
        make_fine(number, head, head.score + 0.1 + 0.01 * number, repeats=repeats)
        for number, (head, repeats) in enumerate(
            zip(best, [(0.9, 0.92, 0.94), (0.8, 0.81, 0.82), (), (0.91,)], strict=True)
        )
    ]
    broken = {"status": "FAILED", "metrics": {}, "reason": "Memory ran out."}
    return [*heads, *fine, make_fine(4, best[0], None, **broken)]


def write(folder, results, **changes):
    known = {
        "objective": "accuracy",
        "title": "a search",
        "facts": {"Seed": "7"},
        "winner": None,
        "test": None,
    }
    path = write_search_report(folder, results=results, **known | changes)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory, search):
    folder = tmp_path_factory.mktemp("search")
    test = Evaluation([0, 1], [[0.9, 0.1], [0.6, 0.4]], ("a", "b"), ("ash", SCRIPT))
    winner = next(each for each in search if each.tier == "fine-tune")
    text = write(folder, search, winner=winner, test=test, default=search[0], max_latency_ms=10.0)
    return folder, text, Page(text)


# The numbers


def test_front_holds_what_no_other_beats():
    rng = np.random.default_rng(0)
    points = [tuple(point) for point in rng.integers(0, 12, (40, 2)).astype(float)]
    beaten = {
        point
        for point in points
        for other in points
        if other != point and other[0] <= point[0] and other[1] >= point[1]
    }
    front = [points[index] for index in pareto_front(points)]
    assert front == sorted(set(points) - beaten)


def test_front_of_equal_points_is_the_first_one():
    assert pareto_front([(1.0, 0.5), (1.0, 0.5), (2.0, 0.5)]) == [0]
    assert pareto_front([]) == []


def test_best_of_a_cut_is_the_repeated_one():
    head = make_head(0)
    lucky, sound = make_fine(0, head, 0.99), make_fine(1, head, 0.9, repeats=(0.9, 0.91))
    cut = (head.values["backbone"], head.values["stage"])
    assert best_of_cuts([lucky, sound], "accuracy") == {cut: sound}


def test_importance_finds_what_the_score_was_made_of(search):
    rows = importances(search, "accuracy")
    assert {row.name for row in rows[:2]} == {"stage", "learning_rate"}
    assert rows[0].mean > 5 * abs(rows[-1].mean)
    assert rows == importances(search, "accuracy")


def test_importance_of_a_loss_is_that_of_its_opposite():
    losses = [make_head(number, score=-make_head(number).score) for number in range(24)]
    scores = [make_head(number) for number in range(24)]
    found = {row.name: row.mean for row in importances(losses, "loss")}
    assert found == pytest.approx({row.name: row.mean for row in importances(scores, "accuracy")})


def test_importance_needs_ten_trials_that_completed(search):
    heads = [each for each in search if each.tier == "head"]
    assert importances(heads[:11], "accuracy"), "ten of eleven completed"
    assert importances(heads[:10], "accuracy") == []


def test_column_of_a_conditional_hyperparameter_has_gaps(search):
    found = {column.name: column for column in columns(search)}
    assert np.isnan(found["units"].numbers).sum() == found["units"].values.count(None) > 0
    assert found["learning_rate"].is_log
    assert not found["stage"].is_range
    assert found["pooling"].levels == ["avg", "max"]


def test_each_head_is_paired_with_the_best_of_its_fine_tuning():
    heads = [make_head(number) for number in range(3)]
    fine = [make_fine(0, heads[0], 0.8), make_fine(1, heads[0], 0.9), make_fine(2, heads[2], 0.85)]
    expected = [Pair("0000", heads[0].score, 0.9), Pair("0002", heads[2].score, 0.85)]
    assert sorted(pairs([*heads, *fine], "accuracy")) == expected


@pytest.mark.parametrize(
    ("fine", "expected"),
    [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], -1.0), ([1, 3, 2, 4], 0.8), ([1, 1, 1, 1], None)],
)
def test_rank_correlation_is_spearmans(fine, expected):
    found = [Pair(str(place), place, each) for place, each in enumerate(fine)]
    assert rank_correlation(found) == pytest.approx(expected)
    assert rank_correlation(found[:2]) is None


@pytest.mark.parametrize(
    ("repeats", "said"),
    [
        ((0.90, 0.92, 0.94), "beats the other, fine-tuned 0002, by 0.0700 ± 0.0058 in 3 repeats"),
        ((0.84, 0.85, 0.89), "0.0100 ± 0.0100 apart in 3 repeats, which is within the standard"),
        ((0.80, 0.81, 0.83), "is behind the other, fine-tuned 0002, by 0.0367 ± 0.0033 in 3"),
        # Luck that both had is none: 0.02 better each time.
        ((0.86, 0.87), "beats the other, fine-tuned 0002, by 0.0200 ± 0.0000 in 2 repeats"),
        ((0.9,), "were not both repeated"),
    ],
)
def test_comparison_says_whether_it_is_luck(repeats, said):
    head = make_head(0)
    winner = make_fine(1, head, 0.9, repeats=repeats)
    other = make_fine(2, head, 0.9, repeats=(0.84, 0.85, 0.86))
    found = comparison(winner, other, "accuracy", called="winner", name="the other")
    assert found.startswith("The winner, fine-tuned 0001, ")
    assert said in found


@pytest.mark.parametrize(
    ("score", "unfrozen", "objective", "said"),
    [
        (0.9, 1, "accuracy", "had 0.8000 when it was searched, and 0.9000 after .* luck"),
        (0.8, 1, "accuracy", "and 0.8000 after .*: fine-tuning gained nothing"),
        (0.9, 1, "loss", "fine-tuning gained nothing"),
        (0.9, 0, "accuracy", "^No fine-tuned network had a better score than the best head"),
    ],
)
def test_page_says_what_fine_tuning_made_of_the_head(score, unfrozen, objective, said):
    head = make_head(0, score=0.8, metrics={})
    fine = make_fine(1, head, score)
    winner = dataclasses.replace(fine, values={**fine.values, "unfrozen": unfrozen})
    assert re.search(said, gain_of_fine_tuning(winner, [head, winner], objective))
    assert gain_of_fine_tuning(head, [head], objective) == ""


@pytest.mark.parametrize(
    ("repeats", "objective", "said"),
    [
        ((0.82, 0.84), "accuracy", r"gained 0.0300 ± 0.0000 over head 0000 alone, in 2 repeats"),
        ((0.82, 0.84), "loss", r"lost 0.0300 ± 0.0000 over head 0000 alone, in 2 repeats"),
        ((0.78, 0.82), "accuracy", r"difference of 0.0000 ± 0.0100 .* within the standard error"),
    ],
)
def test_page_says_what_fine_tuning_gained_in_repeats(repeats, objective, said):
    head = make_head(0, score=0.8, metrics={}, repeats=(0.79, 0.81, 0.95))
    winner = make_fine(1, head, 0.9, repeats=repeats)
    assert re.search(said, gain_of_fine_tuning(winner, [head, winner], objective))


# The report


def test_page_is_whole_and_needs_nothing_outside_itself(written):
    _, text, page = written
    assert page.open == []
    assert all(each.startswith("data:image/") for each in page.attributes("src", "srcset"))
    assert not re.search(r"https?:|url\(|@import", text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script"})


def test_every_trial_is_on_the_page_and_failed_ones_have_their_reason(written, search):
    text = written[2].text
    for result in search:
        assert f"{'head' if result.tier == 'head' else 'fine-tuned'} {result.name}" in text
    assert text.count(f"It is {SCRIPT}.") == 2
    assert "Memory ran out." in text
    assert "Failed: 3" in text


def test_page_says_who_won_and_whether_by_luck(written):
    text = written[2].text
    assert "0.9200 ± 0.0115" in text, "mean and standard error of 0.90, 0.92, 0.94"
    assert "The winner, fine-tuned 0000, beats the runner-up, fine-tuned 0001, by 0.1100" in text
    assert "The head of the winner, head " in text
    assert "the default, head 0000," in text
    assert "after the network behind it was fine-tuned" in text
    assert "within the budget" in text


def test_test_part_of_the_winner_is_shown(written):
    text = written[2].text
    assert "test accuracy" in text
    assert "0.5000" in text
    assert SCRIPT in text


def test_every_plot_is_a_png_file_with_something_in_it(written):
    found = {path.name: path for path in (written[0] / "plots").iterdir()}
    assert found.keys() == {
        "scores.png", "latency.png", "coordinates_head.png", "coordinates_fine_tune.png",
        "importance.png", "ranking.png", "confusion_counts.png", "confusion_shares.png",
    }  # fmt: skip
    for path in found.values():
        assert len(Image.open(path).convert("RGB").getcolors(1 << 24)) > 20


def test_csv_holds_every_trial_as_it_was(written, search):
    with (written[0] / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(search)
    for row, result in zip(rows, search, strict=True):
        assert (row["tier"], row["trial"], row["status"]) == (
            result.tier, result.name, result.status,
        )  # fmt: skip
        assert row["score"] == ("" if result.score is None else repr(result.score))
        assert row["reason"] == result.reason
        assert float(row["learning_rate"]) == result.values["learning_rate"]
        assert row["units"] == str(result.values.get("units", ""))
        assert row["repeats"].split() == [str(each) for each in result.repeats]


def test_plots_that_there_is_nothing_for_are_left_out(tmp_path, search):
    write(tmp_path, search)
    text = write(tmp_path, search[:4])
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "scores.png", "latency.png", "coordinates_head.png",
    }  # fmt: skip
    assert "Test part" not in text


def test_search_in_which_all_failed_still_has_its_report(tmp_path):
    results = [make_head(number, failed=True) for number in range(12)]
    page = Page(write(tmp_path, results))
    assert "Failed: 12" in page.text
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"coordinates_head.png"}


def test_one_trial_without_latency_is_enough(tmp_path):
    trial = make_head(0, latency_ms=None, params=None)
    page = Page(write(tmp_path, [trial], winner=trial))
    assert "head 0000" in page.text
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"scores.png"}


def test_search_by_loss_takes_the_least(tmp_path, search):
    results = [make_head(number, score=40.0 * 0.5**number) for number in range(12)]
    page = Page(write(tmp_path, results, objective="loss", winner=results[-1]))
    assert page.text.index("head 0011") < page.text.index("head 0000")


def test_report_that_cannot_be_written_is_a_sentence(tmp_path, search):
    (tmp_path / "plots").touch()
    with pytest.raises(RunError, match="plots"):
        write(tmp_path, search[:2])


def test_both_colours_are_what_each_alone_is():
    evaluation = Evaluation(
        np.arange(200) % 25, np.full((200, 25), 0.04), tuple("a" * 200), tuple("b" * 25)
    )
    draw = functools.partial(plots.confusion_counts, evaluation)
    for both, alone in zip(render_both(draw), (render(draw, LIGHT), render(draw, DARK)),
                           strict=True):  # fmt: skip
        pixels = [np.asarray(Image.open(io.BytesIO(file))) for file in (both, alone)]
        np.testing.assert_array_equal(*pixels)


# TensorBoard


def test_tensorboard_reads_each_trial(tmp_path, search):
    logs = write_hparams(tmp_path, search)
    assert {path.name for path in logs.iterdir()} == {f"{each.tier}-{each.name}" for each in search}
    for result in (search[0], search[3], search[-2]):
        read = EventAccumulator(str(logs / f"{result.tier}-{result.name}"))
        read.Reload()
        content = read.summary_metadata
        start = metadata.parse_session_start_info_plugin_data(
            content[metadata.SESSION_START_INFO_TAG].plugin_data.content
        )
        rate = start.hparams["learning_rate"].number_value
        assert rate == pytest.approx(result.values["learning_rate"])
        assert start.hparams["backbone"].string_value == result.values["backbone"]
        end = metadata.parse_session_end_info_plugin_data(
            content[metadata.SESSION_END_INFO_TAG].plugin_data.content
        )
        assert end.status == (2 if result.status == "FAILED" else 1)
        assert ("score" in content) == (result.score is not None)
        assert "seconds" in content


def test_trials_of_an_earlier_call_do_not_stay(tmp_path, search):
    write_hparams(tmp_path, search[:3])
    logs = write_hparams(tmp_path, search[:1])
    assert [path.name for path in logs.iterdir()] == ["head-0000"]
    assert len(list((logs / "head-0000").iterdir())) == 1


def test_folder_that_cannot_hold_the_logs_is_a_sentence(tmp_path, search):
    (tmp_path / "search").touch()
    with pytest.raises(RunError, match="hparams cannot be written"):
        write_hparams(tmp_path / "search", search[:1])
