"""What every benchmark shares: its options, its lines of progress, its table and its JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.machine import this_machine
from benchmarks.timing import Comparison

# Wide enough for every row: where nobody looks at a terminal, no line is broken.
FILE_WIDTH = 140


def make_parser(
    description: str, *, depths: Sequence[int], known: Iterable[int], rounds: int
) -> argparse.ArgumentParser:
    """Returns a parser of the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--depths", type=int, nargs="+", default=depths, choices=sorted(known))
    parser.add_argument("--rounds", type=at_least(1), default=rounds, help="rounds taken in turn")
    parser.add_argument("--json", type=_file, metavar="FILE", help="where all figures are written")
    return parser


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that is there: {text!r}")
    return path


def at_least(lowest: int) -> Callable[[str], int]:
    """Returns the type of an option that is a whole number, with a lowest value."""

    def number(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}. Received: {value}")
        return value

    return number


def prepare() -> None:
    """Fixes the seeds, and silences warnings that a function is traced often: so it is meant."""
    keras.utils.set_random_seed(0)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def say(text: str) -> None:
    """Prints a line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def comparison_table(
    results: Sequence[dict[str, Any]], *, title: str, caption: str, base: str = "stock"
) -> Table:
    """Returns the table of the comparisons, a line for each program.

    Args:
        results: Each with `depth`, `case` and `comparisons`.
        title: Above it.
        caption: Below it.
        base: Name of the first program, which the others are compared to.
    """
    table = new_table(title, caption)
    for name in ("depth", "case", "what", "program"):
        table.add_column(name)
    for name in ("median", f"{base} / it", "range", f"share of {base}"):
        table.add_column(name, justify="right")
    for result in results:
        for comparison in result["comparisons"]:
            where = (str(result["depth"]), result["case"], comparison.measure)
            for program, *figures in _lines(comparison):
                table.add_row(*where, program, *figures)
                where = ("", "", "")
        table.add_section()
    return table


def _lines(comparison: Comparison) -> Iterable[tuple[str, ...]]:
    shown = milliseconds if comparison.unit == "s" else gibibytes
    for program, median in comparison.medians.items():
        if ratio := comparison.ratios.get(program):
            spread = f"{digits(ratio['lowest'])} to {digits(ratio['highest'])}"
            share = f"{digits(100 / ratio['of_medians'])} %"
            yield program, shown(median), digits(ratio["of_medians"]), spread, share
        else:
            yield program, shown(median), "", "", ""


def new_table(title: str, caption: str) -> Table:
    """Returns an empty table; its lines are drawn in a terminal only."""
    lines = box.SIMPLE if sys.stdout.isatty() else None
    return Table(
        title=title, caption=caption, box=lines, title_justify="left", caption_justify="left"
    )


def digits(value: float) -> str:
    """Returns a positive number with at least three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def milliseconds(seconds: float) -> str:
    """Returns a time for people."""
    return f"{digits(1e3 * seconds)} ms"


def gibibytes(count: float) -> str:
    """Returns a size of memory for people."""
    return f"{count / 2**30:.2f} GiB"


def publish(options: argparse.Namespace, results: Sequence[dict[str, Any]], table: Table) -> None:
    """Prints the machine and the table on standard output, and writes the JSON if asked to."""
    machine = this_machine()
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else FILE_WIDTH, highlight=False)
    console.print(str(machine), markup=False)
    console.print(table)
    if options.json:
        report = {
            "machine": dataclasses.asdict(machine),
            "settings": {name: value for name, value in vars(options).items() if name != "json"},
            "results": results,
        }
        text = json.dumps(report, indent=2, default=lambda value: value.to_dict())
        options.json.write_text(text + "\n", encoding="utf-8")
        say(f"all figures are in {options.json}")
