"""Times training in several processes of this machine against one process, in turn.

    python -m benchmarks.distributed --workers 2

All use the same cores: what the workers lose is what it costs them to exchange gradients. The
commands are those of a user, `resnet-keras finetune` and `resnet-keras launch`; what is compared is
the time of the epochs after the first, as the run folder lists it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from benchmarks.pictures import random_pictures
from benchmarks.report import at_least, comparison_table, make_parser, publish, say
from benchmarks.timing import Comparison, Work, in_turn

ONE = "one process"
COMMAND = (sys.executable, "-m", "resnet_keras")
EPOCHS = 3
CAPTION = "Times are per picture, in epochs after the first; pictures are split among workers."


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes the JSON if asked to."""
    options = _options(arguments)
    results = [_compare(case, options=options) for case in options.cases]
    publish(options, results, _table(results, options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("Times several processes.", depths=[50], known=[50], rounds=5)
    parser.add_argument("--workers", type=at_least(2), default=2)
    parser.add_argument("--cases", nargs="+", default=["stage4", "all"], choices=["stage4", "all"])
    parser.add_argument("--pictures", type=at_least(100), default=256)
    parser.add_argument("--image-size", type=at_least(32), default=224)
    parser.add_argument("--batch-size", type=at_least(1), default=32)
    parser.add_argument("--weights", default="open_nsfw", help="as `resnet-keras finetune` takes")
    return parser.parse_args(arguments)


def _table(results: Sequence[dict[str, Any]], options: argparse.Namespace) -> Table:
    title = (
        f"Training on pictures of {options.image_size} pixels, {options.batch_size} a step; "
        f"rounds: {options.rounds}"
    )
    return comparison_table(results, title=title, caption=CAPTION, base=ONE)


def _compare(case: str, *, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        pictures = _write_pictures(Path(folder) / "pictures", options)
        run = Path(folder) / "run"
        finetune = [
            "finetune", str(pictures), "--weights", options.weights, "--run-dir", str(run),
            "--image-size", str(options.image_size), "--batch-size", str(options.batch_size),
            "--head-epochs", "0", "--epochs", str(EPOCHS), "--start", case,
            "--validation", "0", "--test", "0", "--no-export",
        ]  # fmt: skip
        launch = ["launch", "--workers", str(options.workers), "--", *finetune]
        programs = {ONE: _timing(finetune, run), f"{options.workers} workers": _timing(launch, run)}
        runs = in_turn(programs, options.rounds, say=lambda text: say(f"{case}, {text}"))
    values = {
        name: [each.later_part / options.pictures for each in own] for name, own in runs.items()
    }
    return {
        "depth": 50,
        "case": case,
        "runs": {name: [dataclasses.asdict(each) for each in own] for name, own in runs.items()},
        "comparisons": [Comparison("epoch after the first", "s", values)],
    }


def _write_pictures(folder: Path, options: argparse.Namespace) -> Path:
    pixels, labels = random_pictures(options.pictures, options.image_size)
    for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / str(label) / f"{number:05}.png")
    return folder


def _timing(arguments: Sequence[str], run: Path) -> Work:
    def work() -> list[float]:
        shutil.rmtree(run, ignore_errors=True)
        subprocess.run([*COMMAND, *arguments], check=True, stdout=sys.stderr)
        with (run / "metrics.csv").open(encoding="utf-8") as file:
            return [float(row["seconds"]) for row in csv.DictReader(file)]

    return work


if __name__ == "__main__":
    main()
