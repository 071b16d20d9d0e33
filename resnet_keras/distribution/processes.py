"""Processes of one machine that live and die together."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from resnet_keras.distribution import guard
from resnet_keras.distribution.guard import STOP_SECONDS, signal_group
from resnet_keras.distribution.screen import copied
from resnet_keras.errors import WorkersError

# For the rest to end by themselves when a signal has stopped the first.
_FOLLOW_SECONDS = 30.0
_DRAIN_SECONDS = 5.0
# The number of a worker and its status, or None and a signal that came.
_Events: TypeAlias = "queue.SimpleQueue[tuple[int | None, int]]"


@dataclasses.dataclass(frozen=True)
class Command:
    """What one worker runs.

    Args:
        arguments: The program and its arguments.
        environment: All of its environment.
        name: Of its log; "worker-" and its number if empty.
    """

    arguments: Sequence[str]
    environment: dict[str, str]
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Ending:
    """How workers ended.

    Args:
        status: 0 if all ran to their end; else the exit code of the first that failed, or the
            negative number of the signal that killed it or that stopped all.
        worker: Number of the worker that failed first; None if none failed by itself.
        log: What that worker wrote.
    """

    status: int
    worker: int | None = None
    log: Path | None = None

    @property
    def code(self) -> int:
        """The exit code; 128 plus its number for a signal, as a shell reports it."""
        return self.status if self.status >= 0 else 128 - self.status


def run_workers(
    commands: Sequence[Command], *, log_dir: Path, again: Callable[[Ending], bool] | None = None
) -> Ending:
    """Runs programs side by side until all have ended; the first failure ends the rest.

    Each is a process group of its own, which ends with it, and with this process, however that
    ends. SIGINT and SIGTERM go on to all; a second one kills them. What the first writes appears
    on the screen as well, but for its errors. Only the main thread may call this.

    Args:
        commands: One a worker.
        log_dir: Folder for `worker-0.log` and so on; it is made if missing.
        again: Where given, the first leads the others: its end is the end of all, and they may
            fail as long as one of them runs, or has run to its end. Called with the failure of
            one, it says whether that one starts again.

    Raises:
        WorkersError: If a program cannot be started or a log cannot be written.
    """
    events: _Events = queue.SimpleQueue()
    with _signals(events), _guard() as pipe:
        kind = _Workers if again is None else functools.partial(_Led, again=again)
        workers = kind(commands, log_dir=log_dir, events=events, pipe=pipe)
        try:
            for index in range(len(commands)):
                workers.start(index)
            return workers.wait()
        finally:
            workers.end()


@contextlib.contextmanager
def _signals(events: _Events) -> Iterator[None]:
    """Makes events of SIGINT and SIGTERM."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {
        number: signal.signal(number, lambda got, _: events.put((None, got))) for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _guard() -> Iterator[int]:
    """Starts the process that outlives this one; yields the pipe by which it knows the groups."""
    read, write = os.pipe()
    with contextlib.closing(os.fdopen(read)) as source:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield write
    finally:
        os.close(write)
        process.wait()


class _Workers:
    """The processes, and what has happened to them."""

    def __init__(
        self, commands: Sequence[Command], *, log_dir: Path, events: _Events, pipe: int
    ) -> None:
        self._commands = commands
        self._log_dir = log_dir
        self._events = events
        self._pipe = pipe
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._copies: list[threading.Thread] = []
        self._running: set[int] = set()
        self._failed: tuple[int, int] | None = None
        self._signal: int | None = None
        self._deadline: float | None = None

    def start(self, index: int) -> None:
        log = self._log(index)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            if index not in self._processes:
                log.write_bytes(b"")
            process = self._open(self._commands[index], index)
        except OSError as error:
            raise WorkersError(
                f"Worker {index} cannot be started with its log in {log.parent} ({error}): choose "
                "another folder for the logs, or fewer workers."
            ) from error
        self._tell_guard(process.pid)
        self._processes[index] = process
        self._running.add(index)
        threading.Thread(target=self._watch, args=(index, process), daemon=True).start()

    def _log(self, index: int) -> Path:
        return self._log_dir / f"{self._commands[index].name or f'worker-{index}'}.log"

    def _open(self, command: Command, index: int) -> subprocess.Popen[bytes]:
        with contextlib.ExitStack() as opened:
            if index:
                outputs = [opened.enter_context(self._log(index).open("ab")).fileno()]
            else:
                # Through two copies, text and progress bars would come in another order.
                screens = (1,) if os.path.sameopenfile(1, 2) else (1, 2)
                outputs = [self._copied(screen, opened) for screen in screens]
            return subprocess.Popen(
                command.arguments,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[-1],
                start_new_session=True,
            )

    def _copied(self, screen: int, opened: contextlib.ExitStack) -> int:
        target, thread = copied(screen, self._log(0))
        opened.callback(os.close, target)
        self._copies.append(thread)
        return target

    def _watch(self, index: int, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        signal_group(process.pid, signal.SIGKILL)  # what it has started and left
        self._events.put((index, status))

    def _tell_guard(self, group: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # someone has killed it
            os.write(self._pipe, f"{group}\n".encode())

    def wait(self) -> Ending:
        while self._running:
            left = self._deadline and max(0.0, self._deadline - time.monotonic())
            try:
                index, number = self._events.get(timeout=left)
            except queue.Empty:
                self._deadline = None
                self._send(signal.SIGKILL)
                continue
            if index is None:
                self._stop(number)
            else:
                self._take_end(index, number)
        if self._signal is not None:
            return Ending(-self._signal)
        if self._failed is None:
            return Ending(0)
        return self._ending(*self._failed)

    def _ending(self, index: int, status: int) -> Ending:
        return Ending(status, index, self._log(index))

    def _stop(self, number: int) -> None:
        self._send(number if self._signal is None else signal.SIGKILL)
        self._signal = self._signal or number

    def _take_end(self, index: int, status: int) -> None:
        self._running.discard(index)
        self._tell_guard(self._processes[index].pid)
        if self._signal is not None:
            self._deadline = self._deadline or time.monotonic() + _FOLLOW_SECONDS
        elif self._failed is None:
            self._judge(index, status)

    def _judge(self, index: int, status: int) -> None:
        """Says what the end of one is for the others."""
        if status:
            self._fail(index, status)

    def _fail(self, index: int, status: int) -> None:
        self._failed = index, status
        self._deadline = time.monotonic() + STOP_SECONDS
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for index in self._running:
            signal_group(self._processes[index].pid, number)

    def end(self) -> None:
        self._send(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
        for thread in self._copies:
            thread.join(_DRAIN_SECONDS)


class _Led(_Workers):
    """Processes of which the first leads the others."""

    def __init__(
        self, commands: Sequence[Command], *, again: Callable[[Ending], bool], **more: Any
    ) -> None:
        super().__init__(commands, **more)
        self._again = again
        self._is_led = True
        self._one_is_done = False

    def _judge(self, index: int, status: int) -> None:
        if index == 0 and status:
            self._fail(index, status)
        elif index == 0:
            # Those that do not know yet find out within seconds.
            self._is_led = False
            self._deadline = time.monotonic() + _FOLLOW_SECONDS
        elif not self._is_led:
            return
        elif not status:
            self._one_is_done = True
        elif self._again(self._ending(index, status)):
            self.start(index)
        elif self._running == {0} and not self._one_is_done:
            self._fail(index, status)
