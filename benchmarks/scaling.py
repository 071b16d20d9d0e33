"""Times `fine_tune` as pictures and depth grow: seconds per picture should not.

    python -m benchmarks.scaling --json scaling.json

The number of pictures grows at the first depth, then the depth at the first number of pictures.
Each setting trains the head, then the last stage, each in a whole call with the defaults.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.ours import fine_tuning, in_memory
from benchmarks.pictures import CLASSES, random_pictures
from benchmarks.report import (
    at_least,
    gibibytes,
    make_parser,
    milliseconds,
    new_table,
    prepare,
    publish,
    say,
)
from benchmarks.stock import Case
from benchmarks.timing import Run, timed
from resnet_keras import build_resnet

DEPTHS = (18, 34, 50, 101, 152, 200)
EPOCHS: dict[Case, int] = {"head": 10, "last_stage": 3}
BATCH_SIZE = 32
# Depth, number of pictures, and what trains.
Setting = tuple[int, int, Case]
CAPTION = (
    "Times are per picture: medians, and ranges over the rounds. The first epoch counts all that "
    "is done once: extraction, tracing, compilation, and the files of the run. Memory is the most "
    "that the process held."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes the JSON if asked to."""
    options = _options(arguments)
    prepare()
    runs: dict[Setting, list[Run]] = {setting: [] for setting in _settings(options)}
    for number in range(options.rounds):
        for setting, own in runs.items():
            own.append(_train(setting, options.image_size))
            depth, pictures, case = setting
            where = f"depth {depth}, {pictures:,} pictures, {case}"
            say(f"{where}, round {number + 1} of {options.rounds}: {own[-1].seconds:.2f} s")
    results = [_result(setting, own) for setting, own in runs.items()]
    publish(options, results, _table(results, options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("Times growing work.", depths=[18, 50, 152], known=DEPTHS, rounds=3)
    pictures = [1000, 4000, 16000]
    parser.add_argument("--pictures", type=at_least(CLASSES), nargs="+", default=pictures)
    parser.add_argument("--image-size", type=at_least(32), default=64)
    return parser.parse_args(arguments)


def _settings(options: argparse.Namespace) -> list[Setting]:
    (first_depth, *depths), counts = options.depths, options.pictures
    grown = [(first_depth, count) for count in counts] + [(depth, counts[0]) for depth in depths]
    return [(*sizes, case) for sizes in grown for case in EPOCHS]


def _train(setting: Setting, image_size: int) -> Run:
    depth, pictures, case = setting
    data = in_memory(*random_pictures(pictures, image_size), batch_size=BATCH_SIZE)
    model = build_resnet(depth, num_classes=CLASSES)
    return timed(fine_tuning(model, data, case, epochs=EPOCHS[case]))


def _result(setting: Setting, runs: Sequence[Run]) -> dict[str, Any]:
    depth, pictures, case = setting
    return {
        "depth": depth,
        "pictures": pictures,
        "case": case,
        "runs": [dataclasses.asdict(run) for run in runs],
        "first_epoch": _spread([run.first_part / pictures for run in runs]),
        "later_epoch": _spread([run.later_part / pictures for run in runs]),
        "peak_rss": max(run.peak_rss for run in runs),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _table(results: Sequence[dict[str, Any]], options: argparse.Namespace) -> Table:
    title = f"Fine-tuning from pictures of {options.image_size} pixels; rounds: {options.rounds}"
    table = new_table(title, CAPTION)
    table.add_column("case")
    for name in ("depth", "pictures", "first epoch", "range", "epoch after it", "range", "memory"):
        table.add_column(name, justify="right")
    for case in EPOCHS:
        for row in (row for row in results if row["case"] == case):
            times = [text for key in ("first_epoch", "later_epoch") for text in _times(row[key])]
            sizes = (str(row["depth"]), f"{row['pictures']:,}")
            table.add_row(case, *sizes, *times, gibibytes(row["peak_rss"]))
        table.add_section()
    return table


def _times(spread: dict[str, float]) -> tuple[str, str]:
    low, high = milliseconds(spread["lowest"]), milliseconds(spread["highest"])
    return milliseconds(spread["median"]), f"{low} to {high}"


if __name__ == "__main__":
    main()
