"""The report: self-contained, escaped, complete, whole or not there."""

import base64
import dataclasses
import io
import os
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from PIL import Image

from resnet_keras.data import DataReport, load_images
from resnet_keras.data.report import Changed
from resnet_keras.errors import RunError
from resnet_keras.evaluation import Evaluation, write_report
from resnet_keras.evaluation.history import History
from resnet_keras.evaluation.metrics import RocCurve
from resnet_keras.evaluation.plots import macro_curve
from resnet_keras.evaluation.text import printable, shortened
from tests.pictures import make_arrays

SCRIPT = "<script>alert(1)</script>"
ODD_FILE = "a \"quoted\" 'ümläut' & <b>.jpg"
ODD_NAMES = (SCRIPT, "Köln $x$", "猫", "\x1b[31mred\n")
PLOTS = {
    "curves.png",
    "confusion_counts.png",
    "confusion_shares.png",
    "per_class.png",
    "roc.png",
    "calibration.png",
    "mistakes.png",
    "least_sure.png",
}
ROW = {"loss": 0.5, "accuracy": 0.75, "learning_rate": 1e-3, "seconds": 1.0}


def make_history(epochs=(2, 3), *, validation=True):
    rows = []
    for phase, count in enumerate(epochs):
        for epoch in range(1, count + 1):
            row = {"phase": f"phase {phase}", "phase_index": phase, "epoch": epoch, **ROW}
            score = 0.5 + 0.1 * len(rows) if len(rows) < 4 else 0.6
            rows.append(
                {**row, "val_loss": 1 - score, "val_accuracy": score} if validation else row
            )
    return rows


def make_images(class_names, *, count=6):
    pixels, labels = make_arrays(len(class_names), count=count, size=32)
    names = np.array(class_names)[labels]
    return load_images(pixels, labels=names, image_size=32, validation=0, test=0.5).test


def make_evaluation(images, *, mistakes=1):
    """An evaluation that takes the first pictures, `mistakes` of them, for the next class."""
    classes = len(images.class_names)
    predicted = images.labels.copy()
    predicted[:mistakes] = (predicted[:mistakes] + 1) % classes
    rest = np.linspace(0.2, 0.4, len(images))[:, None]
    probabilities = np.eye(classes)[predicted] * (1 - rest) + rest / classes
    return Evaluation(images.labels, probabilities, images.names, images.class_names)


def write(folder, **changes):
    values = {
        "evaluation": None,
        "history": [],
        "data_report": None,
        "images": None,
        "title": "a run",
        "facts": {},
    }
    return write_report(folder, **{**values, **changes}).read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser makes of a page: its elements, their attributes and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("img", "source", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += f"{data}\n"

    def attributes(self, *names):
        return [attrs[name] for _, attrs in self.elements for name in names if name in attrs]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A report in which every name is hostile: its folder, text and parsed page."""
    folder = tmp_path_factory.mktemp("report")
    images = make_images(ODD_NAMES)
    images = dataclasses.replace(images, names=(ODD_FILE, *images.names[1:]))
    report = DataReport(
        source=SCRIPT,
        counts={"train": dict.fromkeys(ODD_NAMES, 3), "test": dict.fromkeys(ODD_NAMES, 1234)},
        bad=tuple((f"{number} {ODD_FILE}", f"is <b>bad</b> {number}") for number in range(25)),
        ignored={".<i>": 2},
        changed={"exif": Changed(12, (SCRIPT,))},
        notes=("The note <u>counts</u>.",),
    )
    text = write(
        folder,
        evaluation=make_evaluation(images, mistakes=3),
        history=make_history(),
        data_report=report,
        images=images,
        title=SCRIPT,
        facts={SCRIPT: SCRIPT, "Seed": "7"},
    )
    return folder, text, Page(text)


def test_page_is_whole_and_its_elements_close(odd):
    _, text, page = odd
    assert text.startswith("<!DOCTYPE html>")
    assert page.open == []


def test_page_needs_nothing_outside_itself(odd):
    _, text, page = odd
    addresses = page.attributes("src", "srcset", "href")
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"https?:|url\(|@import", text)


def test_names_are_shown_and_never_obeyed(odd):
    _, _, page = odd
    kinds = {tag for tag, _ in page.elements}
    assert kinds.isdisjoint({"script", "u"})
    assert SCRIPT in page.text
    assert ODD_FILE in page.text
    assert "猫" in page.text
    assert ODD_FILE in page.attributes("alt")
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_control_characters_do_not_reach_the_page(odd):
    assert "\x1b" not in odd[1]
    assert "\ufffd[31mred\ufffd" in odd[2].text


def test_page_says_what_was_left_out_and_changed(odd):
    _, _, page = odd
    assert f"24 {ODD_FILE}" in page.text
    assert "is <b>bad</b> 24" in page.text
    assert "2 .<i>" in page.text
    assert "12 turned as their EXIF block says: " + SCRIPT + " and 11 more" in page.text
    assert "The note <u>counts</u>." in page.text
    assert "1,234" in page.text


def test_every_plot_is_a_png_file_and_those_of_the_page_are_in_it(odd):
    folder, text, _ = odd
    files = {path.name: path.read_bytes() for path in (folder / "plots").iterdir()}
    assert files.keys() == PLOTS
    for content in files.values():
        image = Image.open(io.BytesIO(content))
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 24)) > 3, "the plot must not be empty"
    for name in PLOTS - {"per_class.png", "mistakes.png", "least_sure.png"}:
        assert base64.b64encode(files[name]).decode() in text


def test_mistakes_are_shown_as_the_pictures_they_are(odd):
    _, _, page = odd
    images = make_images(ODD_NAMES)
    jpegs = [address for address in page.attributes("src") if address.startswith("data:image/jpeg")]
    # Three mistakes, and all twelve pictures as the least sure.
    assert len(jpegs) == 3 + 12
    evaluation = make_evaluation(images, mistakes=3)
    shown = Image.open(io.BytesIO(base64.b64decode(jpegs[0].split(",")[1])))
    expected = images.pictures([evaluation.mistakes()[0]])[0]
    assert np.abs(np.asarray(shown, float) - expected).mean() < 16


def test_dark_and_light_figures_differ(odd):
    _, _, page = odd
    light = [address for address in page.attributes("src") if "image/png" in address]
    dark = page.attributes("srcset")
    assert len(light) == len(dark) == 5
    assert not set(light) & set(dark)


def test_settings_of_matplotlib_stay_as_they_were(tmp_path):
    before = dict(matplotlib.rcParams)
    write(tmp_path, history=make_history())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("classes", [2, 25])
def test_two_and_many_classes_are_drawn(tmp_path, classes):
    images = make_images([f"class {number:02d}" for number in range(classes)], count=4)
    text = write(tmp_path, evaluation=make_evaluation(images, mistakes=30), images=images)
    assert f"class {classes - 1:02d}" in Page(text).text


def test_picture_of_an_evaluation_of_some_is_found_by_name(tmp_path):
    images = make_images(("ash", "birch"), count=8)
    evaluation = make_evaluation(images, mistakes=2).subset(np.array([1]))
    page = Page(write(tmp_path, evaluation=evaluation, images=images))
    jpeg = next(address for address in page.attributes("src") if "jpeg" in address)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg.split(",")[1]))), float)
    assert np.abs(shown - images.pictures([1])[0]).mean() < 16


def test_single_picture_and_perfect_score_leave_out_what_is_not_there(tmp_path):
    evaluation = Evaluation([1], [[0.0, 1.0]], names=("a",), class_names=("x", "y"))
    page = Page(write(tmp_path, evaluation=evaluation))
    assert "not defined" not in page.text
    assert "Surest mistakes" not in page.text
    assert "ROC and calibration" in page.text
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    assert files.isdisjoint({"roc.png", "mistakes.png", "curves.png"})


def test_report_of_a_run_without_evaluation_has_its_curves(tmp_path):
    page = Page(write(tmp_path, history=make_history(validation=False)))
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"curves.png"}
    assert "Confusion" not in page.text


def test_name_that_is_no_unicode_is_written(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    evaluation = Evaluation([1], [[0.9, 0.1]], names=(name,), class_names=("x", "y"))
    assert "caf\ufffd.jpg" in Page(write(tmp_path, evaluation=evaluation)).text


def test_plots_of_an_earlier_report_do_not_stay(tmp_path):
    write(tmp_path, history=make_history())
    (tmp_path / "plots" / "mine.png").touch()
    evaluation = Evaluation([1], [[0.9, 0.1]], names=("a",), class_names=("x", "y"))
    write(tmp_path, evaluation=evaluation)
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    assert "curves.png" not in files
    assert {"mine.png", "calibration.png"} <= files


def test_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    old = write(tmp_path, title="old")
    (tmp_path / "plots").touch()
    with pytest.raises(RunError, match="plots"):
        write(tmp_path, title="new", history=make_history())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "plots"}


# The history


def test_phases_begin_where_the_name_or_the_index_changes():
    rows = [{**ROW, "phase": "head", "phase_index": index} for index in (0, 0, 1)]
    rows.append({**ROW, "phase": "stage4", "phase_index": 2})
    history = History(rows)
    assert history.borders == [2, 3]
    assert history.phase_names == ["head", "head", "stage4"]


@pytest.mark.parametrize(
    ("monitor", "values", "losses", "best"),
    [
        ("accuracy", [0.1, 0.9, 0.9], [0.3, 0.3, 0.3], 1),
        ("accuracy", [0.1, 0.9, 0.9], [0.1, 0.3, 0.2], 2),
        ("loss", [0.3, 0.1, 0.2], [0.3, 0.1, 0.2], 1),
        ("f1", ["", 0.2, None], [0.1, 0.2, 0.1], 1),
    ],
)
def test_best_epoch_has_the_best_metric_and_of_equals_the_lower_loss(monitor, values, losses, best):
    rows = [
        {**ROW, "phase": "head", "val_loss": loss, f"val_{monitor}": value}
        for value, loss in zip(values, losses, strict=True)
    ]
    assert History(rows, monitor=monitor).best == best


def test_history_without_validation_has_no_best_epoch():
    history = History(make_history(validation=False))
    assert history.best is None
    assert [panel.title for panel in history.panels()] == ["loss", "accuracy", "learning rate"]


def test_monitored_metric_has_its_own_panel():
    rows = [{**row, "val_f1": 0.5} for row in make_history()]
    panel = next(panel for panel in History(rows, monitor="f1").panels() if panel.title == "F1")
    assert panel.training is None
    np.testing.assert_array_equal(panel.validation, [0.5] * 5)


# The parts


def test_macro_curve_is_the_mean_height():
    step = RocCurve(0, np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), 1.0)
    diagonal = RocCurve(1, np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0]), 0.5)
    rates, heights = macro_curve([step, diagonal])
    assert np.interp(0.5, rates, heights) == pytest.approx(0.75)
    assert np.trapezoid(heights, rates) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("text", "expected"), [("short", "short"), ("abcdefghij", "abc…hij"), ("a\tb", "a\ufffdb")]
)
def test_long_names_lose_their_middle(text, expected):
    assert shortened(text, 7) == expected
    assert len(shortened(text, 7)) <= 7


def test_printable_text_stays():
    assert printable("Köln 猫 'x'") == "Köln 猫 'x'"
