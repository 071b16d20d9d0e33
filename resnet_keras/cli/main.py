"""The entry point: commands by name, errors as one sentence, stable exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer import Option

from resnet_keras.cli import (
    demo,
    finetune,
    inspect,
    launch,
    tune,
    use,
    weights,
    weights_convert,
    weights_files,
)
from resnet_keras.errors import (
    DataError,
    DivergedError,
    ExportError,
    ResNetKerasError,
    RunError,
    TuningError,
    WeightsError,
    WorkersError,
)

USAGE = 2
EXIT_CODES: dict[type[Exception], int] = {
    DataError: 3,
    WeightsError: 4,
    DivergedError: 5,
    RunError: 6,
    ExportError: 7,
    WorkersError: 8,
    TuningError: 9,
    ValueError: USAGE,
    TypeError: USAGE,
}

app = typer.Typer(
    name="resnet-keras",
    help="Takes a pretrained ResNet to your own pictures and into production.",
    epilog="Exit codes: 0 ok, 2 usage, 3 data, 4 weights, 5 diverged, 6 run folder, 7 export, "
    "8 workers, 9 search, 130 and 143 signals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("finetune")(finetune.finetune)
app.command("tune")(tune.tune)
app.command("launch", context_settings={"allow_interspersed_args": False})(launch.launch)
app.command("evaluate")(use.evaluate)
app.command("predict")(use.predict)
app.command("export")(use.export)
app.command("summary")(inspect.summary)
weights.weights_app.command("fetch")(weights_files.fetch)
weights.weights_app.command("verify")(weights_files.verify)
weights.weights_app.command("convert")(weights_convert.convert)
app.add_typer(weights.weights_app, name="weights")


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"resnet-keras {version('resnet_keras')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, Option("--debug", help="Show the whole traceback of an error.")] = False,
    version: Annotated[
        bool, Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Takes a pretrained ResNet to your own pictures and into production."""
    if debug:
        os.environ["RESNET_KERAS_DEBUG"] = "1"


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and leaves with its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        app(arguments, prog_name="resnet-keras")
    except (ResNetKerasError, ValueError, TypeError) as error:
        if os.environ.get("RESNET_KERAS_DEBUG"):
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(_exit_code(error))


def _exit_code(error: Any) -> int:
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
