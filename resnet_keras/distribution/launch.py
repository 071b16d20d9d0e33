"""Starts the workers of a training on this machine, and starts them again if one is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from resnet_keras.distribution.cluster import VARIABLE, Cluster
from resnet_keras.distribution.processes import Command, Ending, run_workers
from resnet_keras.distribution.rendezvous import open_port
from resnet_keras.distribution.screen import ERROR

# Usage, data, weights, a diverged loss and the export: they would fail again.
FINAL_CODES = frozenset({2, 3, 4, 5, 7})
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_LOG_END = 1 << 16  # bytes at the end of a log in which its error is looked for


def supervise(
    commands: Callable[[int], Sequence[Command]],
    *,
    log_dir: Path,
    max_restarts: int,
    say: Callable[[str], None],
) -> int:
    """Runs workers until they end; if one is lost, starts all of them again.

    Args:
        commands: Returns what the workers run, given the number of restarts before.
        log_dir: Folder for the logs; those of a restart are in `restart-1` and so on below it.
        max_restarts: How often all may be started again, 0 or more.
        say: Tells the user a sentence.

    Returns:
        0 if all ran to their end, else the exit code of the first worker that failed; 128 plus
        its number for a signal.

    Raises:
        WorkersError: If a worker cannot be started.
    """
    for restart in range(max_restarts + 1):
        folder = log_dir / f"restart-{restart}" if restart else log_dir
        ending = run_workers(commands(restart), log_dir=folder)
        if ending.worker is None:
            break
        if ending.code in FINAL_CODES or restart == max_restarts:
            say(_last_sentence(ending, restart))
            break
        say(f"{_fate(ending)}; restart {restart + 1} of {max_restarts}")
    return ending.code


def supervise_search(
    commands: Sequence[Command],
    *,
    log_dir: Path,
    max_restarts: int,
    say: Callable[[str], None],
) -> int:
    """Runs the chief and the workers of a search; a worker that is lost starts again alone.

    Args:
        commands: What they run, the chief first.
        log_dir: Folder for the logs.
        max_restarts: How often workers may be started again in all, 0 or more. Without, the
            others go on: the chief gives them the trials of the one that is lost.
        say: Tells the user a sentence.

    Returns:
        0 if the chief ran to its end, else its exit code, or that of the last worker that failed.

    Raises:
        WorkersError: If one of them cannot be started.
    """
    restarts = 0

    def again(ending: Ending) -> bool:
        nonlocal restarts
        if ending.code in FINAL_CODES:
            return False
        if restarts == max_restarts:
            say(f"{_fate(ending)}; its log is {ending.log}")
            return False
        restarts += 1
        say(f"{_fate(ending)}; restart {restarts} of {max_restarts}")
        return True

    ending = run_workers(commands, log_dir=log_dir, again=again)
    if ending.worker is not None:
        say(_last_sentence(ending, restarts))
    return ending.code


def search_commands(arguments: Sequence[str], *, workers: int) -> list[Command]:
    """Returns the same command for the chief and each worker of a search on this machine.

    Args:
        arguments: Those of `resnet-keras`.
        workers: Their number besides the chief, 1 or more; they share out the cores.
    """
    (port,) = _free_ports(1)
    program, environment = _program(arguments, workers)
    # As keras-tuner calls them.
    environment |= {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    return [
        Command(program, environment | {"KERASTUNER_TUNER_ID": name}, name)
        for name in ("chief", *(f"worker-{index}" for index in range(1, workers + 1)))
    ]


def training_commands(arguments: Sequence[str], *, workers: int) -> list[Command]:
    """Returns the same command for each worker of a cluster on free ports of this machine.

    Args:
        arguments: Those of `resnet-keras`.
        workers: Their number, 1 or more; they share out the cores of this process.
    """
    addresses = tuple(f"127.0.0.1:{port}" for port in _free_ports(workers))
    program, environment = _program(arguments, workers)
    return [
        Command(program, environment | {VARIABLE: Cluster(addresses, index).to_tf_config()})
        for index in range(workers)
    ]


def _program(arguments: Sequence[str], workers: int) -> tuple[list[str], dict[str, str]]:
    """Returns what each runs, and the environment that all have."""
    program = [sys.executable, "-P", "-m", "resnet_keras", *arguments]
    threads = str(max(1, _cores() // workers))
    # Lines appear in the logs when they are written, even if the worker is killed then.
    return program, {"PYTHONUNBUFFERED": "1", **dict.fromkeys(THREADS, threads), **os.environ}


def _free_ports(count: int) -> list[int]:
    """Returns ports that were free a moment ago, all different."""
    held = [open_port(0) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in held]
    for listener in held:
        listener.close()
    return ports


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fate(ending: Ending) -> str:
    who = "the chief" if ending.log and ending.log.stem == "chief" else f"worker {ending.worker}"
    if ending.status < 0:
        name = signal.strsignal(-ending.status)
        return f"{who} was killed by signal {-ending.status} ({name})"
    return f"{who} ended with exit code {ending.status}"


def _last_sentence(ending: Ending, restarts: int) -> str:
    """Returns what is left to say: the worker's own error, which the screen does not show."""
    own = _error_line(ending.log)
    if own and ending.code in FINAL_CODES:
        return own
    after = f" after {restarts} restart{'s' * (restarts > 1)}" if restarts else ""
    said = f" ({own.removeprefix(ERROR).strip().rstrip('.')})" if own else ""
    return f"error: {_fate(ending)}{after}{said}; its log is {ending.log}"


def _error_line(log: Path | None) -> str | None:
    """Returns the last error that a worker wrote."""
    if log is None or not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_END))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith(ERROR)), None)
