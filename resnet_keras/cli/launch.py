"""`resnet-keras launch`: one training, or one search, in several processes of this machine."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Context, Exit, Option, echo

from resnet_keras.cli.finetune import default_name
from resnet_keras.distribution.cluster import VARIABLE, Cluster
from resnet_keras.errors import WorkersError

# The command whose processes train in step, and that of a search with a chief, by `--tuner`.
COMMANDS = {False: "finetune", True: "tune"}
# As `training.runs` names it, whose import takes seconds.
CONFIG = "config.yaml"


def launch(
    context: Context,
    arguments: Annotated[
        list[str],
        Argument(metavar="COMMAND", help="finetune or tune and its options.", show_default=False),
    ],
    workers: Annotated[int, Option(min=1, help="Processes; they share out the cores.")],
    tuner: Annotated[
        bool, Option("--tuner", help="Share out the trials of tune; one more process leads.")
    ] = False,
    max_restarts: Annotated[
        int,
        Option(
            min=0,
            help="How often all start again, resuming, if one is lost; with --tuner, that one.",
        ),
    ] = 0,
    log_dir: Annotated[
        Path | None,
        Option(help="Folder for what each worker prints.  \\[default: a temporary one]"),
    ] = None,
) -> None:
    """Trains in several processes of this machine, which it restarts if one is lost.

    Example: resnet-keras launch --workers 2 --max-restarts 3 -- finetune photos/ --epochs 10

    Example: resnet-keras launch --tuner --workers 3 -- tune photos/ --max-trials 100
    """
    if os.name != "posix":
        raise WorkersError("`launch` needs process groups, which this system lacks: use Linux.")
    if cluster := Cluster.from_environment():
        raise WorkersError(
            f"`launch` starts workers of its own, but {VARIABLE} says that this process is "
            f"already {cluster.name(cluster.index)}: start {arguments[0]} itself, or unset "
            f"{VARIABLE}."
        )
    from resnet_keras.distribution.launch import (
        search_commands,
        supervise,
        supervise_search,
        training_commands,
    )

    options = _check(context, arguments, tuner=tuner)
    folder = log_dir or Path(tempfile.mkdtemp(prefix="resnet_keras-launch-"))
    say = functools.partial(echo, err=True)
    say(f"{workers} workers; what each prints is in {folder}")
    watch: dict[str, Any] = {"log_dir": folder, "max_restarts": max_restarts, "say": say}
    if tuner:
        raise Exit(supervise_search(search_commands(arguments, workers=workers), **watch))
    restarted = _Arguments(arguments, options)
    code = supervise(
        lambda restart: training_commands(restarted.after(restart), workers=workers), **watch
    )
    raise Exit(code)


def _check(context: Context, arguments: Sequence[str], *, tuner: bool) -> Mapping[str, Any]:
    """Returns the options of the command; a mistake in them is shown once, before it starts."""
    name, *rest = arguments
    root: Any = context.find_root()
    if name != COMMANDS[tuner]:
        hint = "; use --tuner for it" if name == COMMANDS[True] else ""
        raise BadParameter(
            f"{name!r} cannot train in several processes{' with --tuner' if tuner else ''}; only "
            f"{COMMANDS[tuner]} can{hint}.",
            context,
        )
    command = root.command.get_command(context, name)
    parsed: Mapping[str, Any] = command.make_context(name, rest, parent=root).params
    return parsed


class _Arguments:
    """The arguments of a command, which resumes its own run when it is started again."""

    def __init__(self, arguments: Sequence[str], options: Mapping[str, Any]) -> None:
        self._arguments = list(arguments)
        self._resume = options["resume"]
        folder = options["run_dir"] or Path("runs") / default_name(options["source"])
        self._config = Path(folder) / CONFIG
        self._older = self._run()

    def _run(self) -> tuple[int, int] | None:
        """Returns what tells the run in the folder from another one there."""
        if not self._config.exists():
            return None
        facts = self._config.stat()
        return facts.st_ino, facts.st_mtime_ns

    def after(self, restart: int) -> list[str]:
        """Returns the arguments after a number of restarts."""
        # A worker may be lost before the run began: an older run is never resumed unasked.
        if not restart or (self._older and self._run() == self._older):
            return self._arguments
        name, *rest = (argument for argument in self._arguments if argument != "--force")
        return [name, *([] if self._resume else ["--resume"]), *rest]
