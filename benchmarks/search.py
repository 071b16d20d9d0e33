"""Times trials of heads: a search with stock keras-tuner against `tune`, in turn.

    python -m benchmarks.search --json search.json

Both search the same space of heads, behind each of the four stages, with the same pictures, batch
size and epochs, in float32. Stock trials send the pictures through a frozen
`keras.applications.ResNet50` in each epoch; `tune` does so once for all trials. It is timed as a
whole, from the latencies it measures first to the winner, which it trains, and the report.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.pictures import CLASSES, random_pictures
from benchmarks.report import at_least, digits, make_parser, new_table, prepare, publish, say
from benchmarks.stock_search import ENDS, VALIDATION, stock_search
from benchmarks.timing import Comparison, Run, Work, in_turn
from resnet_keras import Augmentation, Recipe, load_images, tune

STOCK, OURS, KEPT = "stock", "ours", "ours, features kept"
DEPTHS = (18, 34, 50, 101, 152)
CAPTION = (
    "Stock runs as many trials at each stage, as random draws do in the long run, and all of their "
    "epochs. Ours: features of the pictures are computed in the search, or kept from an earlier "
    "one. Stock networks have 50 layers and are v1, ours have the depths above and are v1.5."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes the JSON if asked to."""
    options = _options(arguments)
    prepare()
    results = [_compare(options)]
    publish(options, results, _table(results[0], options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("Times trials of heads.", depths=[50], known=DEPTHS, rounds=1)
    parser.add_argument("--trials", type=at_least(1), default=100, help="of ours in a round")
    parser.add_argument(
        "--stock-trials", type=at_least(1), default=1, help="of stock at each of the four stages"
    )
    parser.add_argument("--epochs", type=at_least(1), default=20)
    parser.add_argument("--pictures", type=at_least(8 * CLASSES), default=200)
    parser.add_argument("--image-size", type=at_least(32), default=224)
    parser.add_argument("--batch-size", type=at_least(1), default=32)
    return parser.parse_args(arguments)


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    pixels, labels = random_pictures(options.pictures, options.image_size)
    training = {"epochs": options.epochs, "batch_size": options.batch_size}
    data = load_images(
        pixels, labels=labels, recipe=Recipe(image_size=options.image_size, crop=1.0),
        batch_size=options.batch_size, validation=VALIDATION, test=0,
    )  # fmt: skip
    trials = {STOCK: len(ENDS) * options.stock_trials, OURS: options.trials, KEPT: options.trials}
    with tempfile.TemporaryDirectory() as cache:
        programs = {STOCK: stock_search(pixels, labels, trials=options.stock_trials, **training)}
        for name in (OURS, KEPT):
            programs[name] = _searching(data, Path(cache) / "features", options, anew=name == OURS)
        runs = in_turn(programs, options.rounds, say=say)
    comparison = Comparison("trial", "s", _per_trial(runs, trials))
    return {
        "depths": options.depths,
        "trials": trials,
        "runs": {name: [dataclasses.asdict(run) for run in own] for name, own in runs.items()},
        "trials_per_hour": {name: 3600 / each for name, each in comparison.medians.items()},
        "comparisons": [comparison],
    }


def _per_trial(runs: dict[str, list[Run]], trials: dict[str, int]) -> dict[str, list[float]]:
    return {name: [run.seconds / trials[name] for run in own] for name, own in runs.items()}


def _searching(data: Any, features: Path, options: argparse.Namespace, *, anew: bool) -> Work:
    """Returns the function that searches heads in a new folder."""

    def search() -> list[float]:
        if anew:
            shutil.rmtree(features, ignore_errors=True)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            tune(
                data,
                run_dir=Path(folder) / "search",
                depths=options.depths,
                weights=None,
                max_trials=options.trials,
                epochs=options.epochs,
                repeats=0,
                fine_tunes=0,
                augmentation=Augmentation(flip="none"),
                precision="float32",
                cache_dir=features,
                quiet=True,
            )
        return [time.perf_counter() - started]

    return search


def _table(result: dict[str, Any], options: argparse.Namespace) -> Table:
    depths = ", ".join(map(str, options.depths))
    title = (
        f"Search of heads on {options.pictures} pictures of {options.image_size} pixels, "
        f"{options.epochs} epochs, depths of ours: {depths}; rounds: {options.rounds}"
    )
    table = new_table(title, CAPTION)
    table.add_column("program")
    for name in ("trials", "seconds a trial", "trials an hour", "times stock", "range"):
        table.add_column(name, justify="right")
    [comparison] = result["comparisons"]
    for name, seconds in comparison.medians.items():
        ratio = comparison.ratios.get(name)
        table.add_row(
            name,
            f"{result['trials'][name]:,}",
            digits(seconds),
            digits(result["trials_per_hour"][name]),
            digits(ratio["of_medians"]) if ratio else "",
            f"{digits(ratio['lowest'])} to {digits(ratio['highest'])}" if ratio else "",
        )
    return table


if __name__ == "__main__":
    main()
