"""Times inference: SavedModels of the stock program against those of `export_model`, in turn.

    python -m benchmarks.inference --json inference.json

Each is loaded with nothing but TensorFlow and asked about the same uint8 pictures of 224 pixels.
The stock model takes floats, so that its pictures are cast first; it answers with logits, ours
with probabilities, labels and indices.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.ours import Precision
from benchmarks.pictures import CLASSES, random_pictures
from benchmarks.report import at_least, comparison_table, make_parser, prepare, publish, say
from benchmarks.stock import NETWORKS, stock_model
from benchmarks.timing import Comparison, Work, in_turn
from resnet_keras import build_resnet, export_model

# The side that networks with random weights are exported for.
IMAGE_SIZE = 224
PRECISIONS: dict[str, Precision] = {"ours, float32": "float32", "ours, bfloat16": "bfloat16"}
# A round calls for so long, and at least once.
ROUND_SECONDS = 2.0
CAPTION = (
    "Times are per call, each a median over the calls of a round. Stock networks are v1, ours are "
    "v1.5, which has more multiply-adds."
)
# Answers a batch of uint8 pictures, and returns when the answer is there.
Served = Callable[[tf.Tensor], Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes the JSON if asked to."""
    options = _options(arguments)
    prepare()
    results = []
    for depth in options.depths:
        with tempfile.TemporaryDirectory() as folder:
            served = _export(depth, Path(folder))
            results += [
                _compare(depth, served, size, rounds=options.rounds) for size in options.batch_sizes
            ]
    title = f"Inference at {IMAGE_SIZE} pixels; rounds: {options.rounds}"
    publish(options, results, comparison_table(results, title=title, caption=CAPTION))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("Times inference.", depths=[50], known=NETWORKS, rounds=5)
    parser.add_argument("--batch-sizes", type=at_least(1), nargs="+", default=[32, 1])
    return parser.parse_args(arguments)


def _export(depth: int, folder: Path) -> dict[str, Served]:
    """Exports and loads the network of each program."""
    say(f"depth {depth}: exporting stock")
    stock_model(depth, "head", IMAGE_SIZE).export(folder / "stock", verbose=False)
    served = {"stock": _served_stock(folder / "stock")}
    model = build_resnet(depth, num_classes=CLASSES)
    for name, precision in PRECISIONS.items():
        say(f"depth {depth}: exporting {name}")
        served[name] = _served(export_model(model, folder / precision, precision=precision))
    return served


def _served_stock(folder: Path) -> Served:
    loaded = tf.saved_model.load(str(folder))
    return lambda pixels: loaded.serve(tf.cast(pixels, tf.float32)).numpy()


def _served(folder: Path) -> Served:
    loaded = tf.saved_model.load(str(folder))
    return lambda pixels: loaded.signatures["serve"](image=pixels)["probabilities"].numpy()


def _compare(
    depth: int, served: dict[str, Served], batch_size: int, *, rounds: int
) -> dict[str, Any]:
    case = f"batch {batch_size}"
    pixels = tf.constant(random_pictures(batch_size, IMAGE_SIZE)[0])
    for answer in served.values():
        answer(pixels)  # the first call compiles
    programs = {name: _calls(answer, pixels) for name, answer in served.items()}
    runs = in_turn(programs, rounds, say=lambda text: say(f"depth {depth}, {case}, {text}"))
    times = {name: [statistics.median(run.parts) for run in own] for name, own in runs.items()}
    return {
        "depth": depth,
        "case": case,
        "batch_size": batch_size,
        "runs": {name: [dataclasses.asdict(run) for run in own] for name, own in runs.items()},
        "comparisons": [Comparison("call", "s", times)],
    }


def _calls(answer: Served, pixels: tf.Tensor) -> Work:
    def calls() -> list[float]:
        times: list[float] = []
        while sum(times) < ROUND_SECONDS:
            started = time.perf_counter()
            answer(pixels)
            times.append(time.perf_counter() - started)
        return times

    return calls


if __name__ == "__main__":
    main()
