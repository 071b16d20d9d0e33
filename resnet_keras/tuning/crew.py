"""Processes that train heads, one a core: NumPy's threads would wait for one another."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import threadpoolctl

from resnet_keras.data.threads import THREADS
from resnet_keras.tuning.scores import Metrics
from resnet_keras.tuning.stack import Job, train

Answer = list[Metrics] | Exception
# Fewer jobs are done before processes have begun.
LEAST_JOBS = 12
# A job is too small for more than one thread, whose number moves the last bits besides.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# What the pipes carry is understood by the same code alone, wherever this process has it from.
SERVE = "import sys; sys.path[:] = {path!r}; from resnet_keras.tuning.stack import serve; serve()"


def train_all(jobs: Sequence[Job]) -> list[Answer]:
    """Returns what came of each job: the metrics of its heads, or what it raised."""
    if len(jobs) < LEAST_JOBS:
        with threadpoolctl.threadpool_limits(1):
            return [_attempt(job) for job in jobs]
    processes = SimpleQueue[_Process]()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(_cores()) as threads:
        for _ in range(_cores()):
            processes.put(stack.enter_context(_Process()))

        def answer(job: Job) -> Answer:
            process = processes.get()
            try:
                return process.train(job)
            finally:
                processes.put(process)

        # The longest first, so that the last ones end together.
        order = sorted(range(len(jobs)), key=lambda number: -jobs[number].size)
        found = dict(zip(order, threads.map(answer, [jobs[each] for each in order]), strict=True))
        return [found[number] for number in range(len(jobs))]


def _attempt(job: Job) -> Answer:
    try:
        return train(job)
    except Exception as error:
        return error


def _cores() -> int:
    """Returns the cores of this process; where a launcher shares them out, it says so."""
    return min(THREADS, int(os.environ.get("OMP_NUM_THREADS") or THREADS))


class _Process:
    """A process that trains one job after the other, and begins again if it was killed."""

    def __enter__(self) -> _Process:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def _end(self) -> int:
        """Ends the process; returns its status."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what is left to write goes nowhere
                pipe.close()  # type: ignore[union-attr]
        return self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
        )

    def train(self, job: Job) -> Answer:
        """Returns what came of a job."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            pickle.dump(job, stdin)
            stdin.flush()
            found: Answer = pickle.load(stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            status = self._end()
            self._start()
            return RuntimeError(f"the process that trained the head ended with status {status}")
        return found
