"""Times training: the stock program against `fine_tune`, in turn.

    python -m benchmarks.training --json training.json

Both train the same parts from the same pictures, uint8 in memory, with the same optimizer. Three
programs take turns: "stock", warm, for an epoch; "ours" with its defaults; and "ours, float32",
which computes as precisely as the stock program. Each round of ours is a whole call of
`fine_tune`: it extracts, traces, compiles, and writes its run folder.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, get_args

import keras
import numpy as np
from rich.table import Table

from benchmarks.ours import Precision, fine_tuning, in_memory
from benchmarks.pictures import CLASSES, random_pictures
from benchmarks.report import at_least, comparison_table, make_parser, prepare, publish, say
from benchmarks.stock import NETWORKS, Case, stock_epoch, stock_model
from benchmarks.timing import Comparison, Run, in_turn
from resnet_keras import build_resnet

STOCK = "stock"
PRECISIONS: dict[str, Precision] = {"ours": "auto", "ours, float32": "float32"}
# Of a call of ours. Epochs of the head take milliseconds, so many of them are needed for a mean.
EPOCHS: dict[Case, int] = {"head": 10, "last_stage": 3, "full": 2}
LATER = "epoch after the first"
FIRST = "first epoch, with all that is done once"
WHOLE = f"{EPOCHS['head']} epochs, with all that is done once"
# What is done once takes seconds whatever the number of pictures; epochs of the head take none.
PICTURES: dict[Case, int] = {"head": 1024, "last_stage": 256, "full": 128}
CAPTION = (
    "Times are per picture. Stock is warm: its tracing and compilation are never counted, and its "
    f"{EPOCHS['head']} epochs are so many times the epoch of the round. Done once by ours: "
    "extraction, tracing, compilation, the files of the run. Its later epochs are those of its "
    "history, which leaves out what happens between them; the sum of all counts that too. Memory "
    "is that of the process, which holds all programs. Stock networks are v1, ours are v1.5, "
    "which has more multiply-adds."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes the JSON if asked to."""
    options = _options(arguments)
    prepare()
    results = [
        _compare(depth, case, options=options) for depth in options.depths for case in options.cases
    ]
    publish(options, results, _table(results, options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("Times training.", depths=[50], known=NETWORKS, rounds=5)
    cases = get_args(Case)
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases)
    parser.add_argument(
        "--pictures", type=at_least(CLASSES), help=f"in each case; by default {PICTURES}"
    )
    parser.add_argument("--image-size", type=at_least(32), default=224)
    parser.add_argument("--batch-size", type=at_least(1), default=32)
    return parser.parse_args(arguments)


def _table(results: Sequence[dict[str, Any]], options: argparse.Namespace) -> Table:
    title = (
        f"Training from pictures of {options.image_size} pixels, {options.batch_size} a step; "
        f"rounds: {options.rounds}"
    )
    return comparison_table(results, title=title, caption=CAPTION)


def _compare(depth: int, case: Case, *, options: argparse.Namespace) -> dict[str, Any]:
    say(f"depth {depth}, {case}: building and warming up")
    count = options.pictures or PICTURES[case]
    pixels, labels = random_pictures(count, options.image_size)
    stock = stock_model(depth, case, options.image_size)
    ours = build_resnet(depth, num_classes=CLASSES)
    data = in_memory(pixels, labels, batch_size=options.batch_size)
    programs = {STOCK: stock_epoch(stock, pixels, labels, batch_size=options.batch_size)}
    for name, precision in PRECISIONS.items():
        programs[name] = fine_tuning(ours, data, case, epochs=EPOCHS[case], precision=precision)
    runs = in_turn(programs, options.rounds, say=lambda text: say(f"depth {depth}, {case}, {text}"))
    return {
        "depth": depth,
        "case": case,
        "pictures": count,
        "trainable_parameters": {STOCK: _trainable(stock), "ours": _trainable(ours)},
        "epochs": EPOCHS[case],
        "runs": {name: [dataclasses.asdict(run) for run in own] for name, own in runs.items()},
        "comparisons": _comparisons(runs, case, count),
    }


def _trainable(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def _comparisons(runs: dict[str, list[Run]], case: Case, pictures: int) -> list[Comparison]:
    def seconds(measure: str, of_ours: Callable[[Run], float], stock_epochs: int = 1) -> Comparison:
        values = {
            name: [
                (stock_epochs * run.parts[0] if name == STOCK else of_ours(run)) / pictures
                for run in own
            ]
            for name, own in runs.items()
        }
        return Comparison(measure, "s", values)

    found = [seconds(LATER, lambda run: run.later_part)]
    found.append(seconds(FIRST, lambda run: run.first_part))
    if case == "head":
        found.append(seconds(WHOLE, lambda run: run.seconds, EPOCHS[case]))
    memory = {name: [run.peak_rss for run in own] for name, own in runs.items()}
    return [*found, Comparison("peak memory", "bytes", memory)]


if __name__ == "__main__":
    main()
