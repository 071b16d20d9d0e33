"""The benchmarks measure what they say; what they find is not judged here."""

import functools
import json
import math
import statistics

import keras
import keras_tuner
import numpy as np
import pytest

from benchmarks import distributed, inference, machine, scaling, search, stock, training
from benchmarks.stock_search import ENDS, StockModel
from benchmarks.timing import Comparison, in_turn, timed
from resnet_keras import build_resnet
from resnet_keras.precision import choose_precision
from resnet_keras.tuning import backbones
from resnet_keras.tuning.space import declare_head

PROGRAMS = {"stock", "ours", "ours, float32"}
# Of ResNet-50 with five classes; keras.applications states 23,534,592 without a head.
HEAD = 5 * 2048 + 5
CONV5 = (
    (1024 * 2048 + 2048)  # shortcut
    + (1024 * 512 + 512)
    + 2 * (2048 * 512 + 512)
    + 3 * (9 * 512 * 512 + 512)
    + 3 * (512 * 2048 + 2048)
)
CONV5_BIASES = 4 * 2048 + 6 * 512


def small_stock(*, weights, include_top, input_shape, pooling):
    """Returns a network that is called as those of keras.applications, in no time."""
    pictures = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv1_conv")(pictures)
    x = keras.layers.Conv2D(8, 3, strides=2, name="conv5_block1_1_conv")(x)
    x = keras.layers.BatchNormalization(name="conv5_block1_1_bn")(x)
    return keras.Model(pictures, keras.layers.GlobalAveragePooling2D()(x))


@pytest.fixture
def small(monkeypatch):
    """Lets the benchmarks run on networks of 18 layers, an eighth as wide."""
    monkeypatch.setitem(stock.NETWORKS, 18, small_stock)
    for module in (training, inference, scaling):
        narrow = functools.partial(build_resnet, width=0.125)
        monkeypatch.setattr(module, "build_resnet", narrow)


def small_stages(*, weights, include_top, input_shape, pooling):
    """Returns a network that has the ends of the stages of a ResNet-50, and little else."""
    x = pictures = keras.Input(input_shape)
    for number, name in sorted(ENDS.items()):
        x = keras.layers.Conv2D(4 * number, 3, strides=2, padding="same", name=name)(x)
    return keras.Model(pictures, x)


def report_of(module, tmp_path, *arguments):
    """Runs a benchmark by its options and returns its JSON."""
    file = tmp_path / "figures.json"
    module.main([*map(str, arguments), "--json", str(file)])
    report = json.loads(file.read_text())
    assert set(report) == {"machine", "settings", "results"}
    assert report["machine"]["precision"] == choose_precision().dtype
    return report


def check_times(runs):
    for run in runs:
        times = [run["seconds"], *run["parts"]]
        assert all(math.isfinite(time) and time > 0 for time in times)
        assert sum(run["parts"]) < run["seconds"]
        assert 10**8 < run["peak_rss"] < 10**11  # TensorFlow alone takes more than 100 MB


def check_ratios(comparison):
    stock_values = np.array(comparison["values"]["stock"])
    assert set(comparison["ratios"]) == set(comparison["values"]) - {"stock"}
    for name, ratio in comparison["ratios"].items():
        values = np.array(comparison["values"][name])
        assert ratio["of_medians"] == pytest.approx(np.median(stock_values) / np.median(values))
        assert ratio["lowest"] == pytest.approx((stock_values / values).min())
        assert ratio["highest"] == pytest.approx((stock_values / values).max())


def check_training(result, pictures):
    """Computes every value of every comparison again from the raw times."""
    runs = result["runs"]
    assert set(runs) == PROGRAMS
    for own in runs.values():
        check_times(own)
    found = {comparison["measure"]: comparison for comparison in result["comparisons"]}
    expected = {
        training.LATER: lambda run: np.mean(run["parts"][1:]) / pictures,
        training.FIRST: lambda run: (run["seconds"] - sum(run["parts"][1:])) / pictures,
    }
    if result["case"] == "head":
        expected[training.WHOLE] = lambda run: run["seconds"] / pictures
    assert set(found) == {*expected, "peak memory"}
    for comparison in found.values():
        check_ratios(comparison)
    for measure, value in expected.items():
        values = found[measure]["values"]
        for name in PROGRAMS - {"stock"}:
            assert values[name] == pytest.approx([value(run) for run in runs[name]])
        epochs = result["epochs"] if measure == training.WHOLE else 1
        expected_stock = [epochs * run["parts"][0] / pictures for run in runs["stock"]]
        assert values["stock"] == pytest.approx(expected_stock)
    for name, values in found["peak memory"]["values"].items():
        assert values == [run["peak_rss"] for run in runs[name]]


def check_inference(result):
    (comparison,) = result["comparisons"]
    check_ratios(comparison)
    for name, runs in result["runs"].items():
        check_times(runs)
        medians = [statistics.median(run["parts"]) for run in runs]
        assert comparison["values"][name] == pytest.approx(medians)


def test_the_benchmark_of_training_writes_what_it_measured(small, tmp_path, capsys):
    options = ("--depths", 18, "--image-size", 32, "--pictures", 8, "--cases", "head")
    (result,) = report_of(training, tmp_path, *options, "--rounds", 1)["results"]
    assert (result["depth"], result["case"]) == (18, "head")
    check_training(result, pictures=8)
    assert result["trainable_parameters"] == {"stock": 5 * 8 + 5, "ours": 5 * 64 + 5}
    output = capsys.readouterr()
    assert "oneDNN" in output.out
    assert training.WHOLE in output.out
    assert "depth 18, head, round 1 of 1: ours, float32" in output.err


def test_the_benchmark_of_inference_writes_what_it_measured(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inference, "PRECISIONS", {"ours, bfloat16": "bfloat16"})
    monkeypatch.setattr(inference, "ROUND_SECONDS", 0.05)
    options = ("--depths", 18, "--batch-sizes", 2, 1, "--rounds", 2)
    report = report_of(inference, tmp_path, *options)
    assert [row["batch_size"] for row in report["results"]] == [2, 1]
    for result in report["results"]:
        check_inference(result)
        assert set(result["runs"]) == {"stock", "ours, bfloat16"}
    assert "share of stock" in capsys.readouterr().out


def test_the_benchmark_of_scaling_grows_pictures_then_depth(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "EPOCHS", {"last_stage": 2})
    options = ("--depths", 18, 34, "--pictures", 8, 16, "--image-size", 32, "--rounds", 1)
    results = report_of(scaling, tmp_path, *options)["results"]
    assert [(row["depth"], row["pictures"]) for row in results] == [(18, 8), (18, 16), (34, 8)]
    for result in results:
        check_times(result["runs"])
        (run,) = result["runs"]
        first, later = run["seconds"] - run["parts"][1], run["parts"][1]
        assert list(result["first_epoch"].values()) == pytest.approx(
            [first / result["pictures"]] * 3
        )
        assert list(result["later_epoch"].values()) == pytest.approx(
            [later / result["pictures"]] * 3
        )
        assert result["peak_rss"] == run["peak_rss"]
    assert "last_stage" in capsys.readouterr().out


# Keras-tuner asks for the name of the thread in an old way.
@pytest.mark.filterwarnings("ignore:(currentThread|getName):DeprecationWarning")
@pytest.mark.slow
def test_the_benchmark_of_searches_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(stock.NETWORKS, 50, small_stages)
    narrow = functools.partial(build_resnet, width=0.125)
    monkeypatch.setattr(backbones, "build_resnet", narrow)
    options = ("--depths", 18, "--image-size", 32, "--pictures", 40, "--batch-size", 8)
    sizes = ("--epochs", 2, "--trials", 3, "--rounds", 1)
    (result,) = report_of(search, tmp_path, *options, *sizes)["results"]
    assert result["trials"] == {"stock": 4, "ours": 3, "ours, features kept": 3}
    (comparison,) = result["comparisons"]
    check_ratios(comparison)
    for name, runs in result["runs"].items():
        check_times(runs)
        seconds = [run["seconds"] / result["trials"][name] for run in runs]
        assert comparison["values"][name] == pytest.approx(seconds)
        assert result["trials_per_hour"][name] == pytest.approx(3600 / np.median(seconds))
    # Each stage has a search of its own; the features of the second round are computed anew.
    assert {len(run["parts"]) for run in result["runs"]["stock"]} == {4}
    assert "trials an hour" in capsys.readouterr().out


def space_of(hp):
    """Returns the values, or the ends, of each hyperparameter that is tried with several."""
    configs = [each.get_config() for each in hp.space]
    return {
        (each["name"], *each.get("values", [each.get("min_value"), each.get("max_value")]))
        for each in configs
        if "value" not in each
    }


def test_the_searches_of_stock_and_ours_have_one_space(monkeypatch):
    monkeypatch.setitem(stock.NETWORKS, 50, small_stages)
    ours = keras_tuner.HyperParameters()
    declare_head(ours, stages={"resnet50": tuple(ENDS)}, views=1, named={})
    pixels, targets = np.zeros((8, 32, 32, 3), np.uint8), np.eye(5)[np.arange(8) % 5]
    found = set()
    for optimizer in ("adamw", "sgd"):
        hp = keras_tuner.HyperParameters()
        hp.values |= {"optimizer": optimizer, "hidden_layers": 2}
        model = StockModel(32).build(hp)
        StockModel(32).fit(hp, model, pixels, targets, verbose=0)
        found |= space_of(hp)
    assert found == space_of(ours) - {("backbone", "resnet50")}


def test_stock_heads_stand_on_the_ends_of_stages_and_alone_train():
    for stage, name in ENDS.items():
        hp = keras_tuner.HyperParameters()
        hp.Fixed("stage", stage)
        model = StockModel(64, [stage]).build(hp)
        (backbone,) = (each for each in model.layers if isinstance(each, keras.Model))
        side = 64 >> (stage + 1)
        assert backbone.output.shape[1:] == (side, side, 128 << stage)
        assert backbone.layers[-1].name == name
        assert [v.shape for v in model.trainable_variables] == [(128 << stage, 5), (5,)]


@pytest.mark.parametrize(
    ("case", "parameters"),
    [("head", HEAD), ("last_stage", HEAD + CONV5), ("full", HEAD + 23_534_592)],
)
def test_stock_trains_what_the_case_says(case, parameters):
    model = stock.stock_model(50, case, 32)
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == parameters
    norms = [v for v in model.trainable_variables if v.path.split("/")[-1] in ("gamma", "beta")]
    assert bool(norms) == (case == "full")


def test_a_stock_epoch_moves_what_trains_and_nothing_else(small):
    model = stock.stock_model(18, "last_stage", 32)
    before = {variable.path: np.array(variable) for variable in model.variables}
    pixels, labels = np.zeros((8, 32, 32, 3), np.uint8), np.arange(8) % 5
    (seconds,) = stock.stock_epoch(model, pixels, labels, batch_size=4)()
    moved = {v.path for v in model.variables if not np.array_equal(v, before[v.path])}
    assert seconds > 0
    assert moved
    assert moved <= {variable.path for variable in model.trainable_variables}


def test_ratios_are_of_medians_and_ranges_of_rounds():
    values = {"stock": [2.0, 8.0, 4.0], "ours": [1.0, 1.0, 4.0]}
    ratios = Comparison("epoch", "s", values).ratios
    assert ratios == {"ours": {"of_medians": 4.0, "lowest": 1.0, "highest": 8.0}}


def test_programs_take_turns():
    seen, lines = [], []
    programs = {name: functools.partial(lambda n: seen.append(n) or [0.1], name) for name in "ab"}
    runs = in_turn(programs, 2, say=lines.append)
    assert seen == ["a", "b", "a", "b"]
    assert [len(own) for own in runs.values()] == [2, 2]
    assert len(lines) == 4


def test_the_peak_of_memory_is_that_of_the_run():
    size = 400_000_000
    large = timed(lambda: [float(np.ones(size // 8).sum())])
    small = timed(lambda: [1.0])
    assert large.peak_rss > small.peak_rss + size // 2


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--depths", "18"], ["--pictures", "2"], ["--json", "/nowhere/x.json"]],
)
def test_wrong_options_stop_before_anything_is_measured(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        training.main(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_the_machine_is_named():
    found = machine.this_machine()
    assert found.cores >= 1
    assert found.memory > 2**30
    assert found.cpu
    assert all(text in str(found) for text in (found.cpu, found.precision, found.reason))


@pytest.mark.slow
def test_ours_trains_the_parts_that_stock_trains(tmp_path):
    report = report_of(training, tmp_path, "--image-size", 32, "--pictures", 8, "--rounds", 1)
    for result in report["results"]:
        check_training(result, pictures=8)
    counts = {row["case"]: row["trainable_parameters"] for row in report["results"]}
    assert counts == {
        "head": {"stock": HEAD, "ours": HEAD},
        "last_stage": {"stock": HEAD + CONV5, "ours": HEAD + CONV5 - CONV5_BIASES},
        # 25,557,032 with 1000 classes.
        "full": {"stock": HEAD + 23_534_592, "ours": 25_557_032 - 2_049_000 + HEAD},
    }


@pytest.mark.slow
def test_both_precisions_are_served_and_compared_with_stock(tmp_path):
    options = ("--depths", 50, "--batch-sizes", 1, "--rounds", 1)
    (result,) = report_of(inference, tmp_path, *options)["results"]
    assert set(result["runs"]) == {"stock", "ours, float32", "ours, bfloat16"}
    check_inference(result)


@pytest.mark.slow
def test_workers_are_timed_by_the_epochs_of_whole_runs(tmp_path):
    sizes = ("--pictures", 100, "--image-size", 32, "--batch-size", 20)
    report = report_of(distributed, tmp_path, "--rounds", 1, "--cases", "stage4", *sizes)
    (result,) = report["results"]
    assert set(result["runs"]) == {"one process", "2 workers"}
    for runs in result["runs"].values():
        check_times(runs)
        assert len(runs[0]["parts"]) == distributed.EPOCHS
    (comparison,) = result["comparisons"]
    one, two = (comparison["medians"][name] for name in result["runs"])
    assert comparison["ratios"]["2 workers"]["of_medians"] == pytest.approx(one / two)
