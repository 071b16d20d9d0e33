"""What several commands share: their options, quiet imports, JSON on standard output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from resnet_keras.distribution.cluster import Cluster

if TYPE_CHECKING:
    from resnet_keras.distribution.strategies import StrategyName

Flips = Literal["none", "horizontal", "vertical", "both"]
OnBadImage = Literal["error", "skip"]

Json = Annotated[bool, Option("--json", help="Print JSON on standard output.")]
Source = Annotated[
    str,
    Argument(
        help="Folder with one sub-folder a class, or with train/, val/ and test/; or tfds:NAME.",
        show_default=False,
    ),
]
RunDir = Annotated[Path, Argument(help="Run folder of a fine-tuned network.", show_default=False)]
PICTURES, RUN = "Pictures", "Run"
# Degrees, and shares of the side, the scale, 255 and the contrast.
LIGHT = {"rotation": 8.0, "translation": 0.05, "zoom": 0.08, "brightness": 0.08, "contrast": 0.1}
PartShare = Annotated[
    float, Option(min=0.0, max=0.9, help="Share split off.", rich_help_panel=PICTURES)
]
BatchSize = Annotated[int, Option(min=1, help="Pictures a step.")]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Option(help="What the convolutions compute in; auto is bfloat16 where that is faster."),
]
FlipsOption = Annotated[Flips, Option(help="Flips whose probabilities are averaged.")]
OnBad = Annotated[
    OnBadImage, Option(help="What a picture that cannot be read does: stop, or be left out.")
]


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps away what TensorFlow's C++ side prints before its log level counts."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_tensorflow(strategy: StrategyName = "none", join_seconds: float = 300.0) -> Any:
    """Imports TensorFlow and Keras without their greetings, and finds the devices.

    Returns:
        The strategy of this process.
    """
    if strategy in ("auto", "multiworker") and (cluster := Cluster.from_environment()):
        name = cluster.name(cluster.index)
        print(f"{name} waits for {cluster.count} workers to be there", file=sys.stderr)
    with _silent_stderr():
        import keras
        import tensorflow as tf

        from resnet_keras.distribution.strategies import get_strategy

        found = get_strategy(strategy, join_seconds=join_seconds, quiet=True)
        tf.constant(0)  # the devices are looked for now, and the messages about them come now
        keras.backend.clear_session()
    return found


def print_json(values: Any) -> None:
    """Prints JSON on standard output."""
    sys.stdout.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def print_table(table: Table) -> None:
    """Prints a table as wide as the terminal; a file takes whole lines."""
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)
