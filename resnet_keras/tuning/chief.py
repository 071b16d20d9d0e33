"""The chief of a search in several processes: it says what is tried, and loses no trial.

Workers say every few seconds that they are there, on a service beside that of keras-tuner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from keras_tuner import HyperParameters
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from resnet_keras.errors import WorkersError
from resnet_keras.tuning.record import SoundOracle

NAME = "KERASTUNER_TUNER_ID"
ADDRESS = "KERASTUNER_ORACLE_IP"
PORT = "KERASTUNER_ORACLE_PORT"
VARIABLES = (NAME, ADDRESS, PORT)
# A worker, or the chief, that says nothing for so long is gone.
LOST_SECONDS = 30.0
JOIN_SECONDS = 600.0
PRESENCE = "resnet_keras.Search"
# Answers to a worker that says it is there; another text is an error.
HERE = "here"
ELSEWHERE = "elsewhere"
# Never through a proxy: all are on the same network.
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 1000)]
# Threads are made as they are needed: a worker holds two at most.
_MAX_THREADS = 1000
_LOOK_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Role:
    """What this process is in a search.

    Args:
        name: Of the process.
        address: Where the chief listens, host and port; None in a search of one process.
    """

    name: str = "tuner0"
    address: str | None = None

    @property
    def is_chief(self) -> bool:
        """Whether it serves others."""
        return self.address is not None and "chief" in self.name

    @property
    def is_worker(self) -> bool:
        """Whether another process tells it what to try."""
        return self.address is not None and "chief" not in self.name

    @classmethod
    def from_environment(cls) -> Role:
        """Returns what keras-tuner's environment variables say.

        Raises:
            WorkersError: If only some are set, or one makes no sense.
        """
        found = {name: os.environ.get(name, "").strip() for name in VARIABLES}
        if not any(name in os.environ for name in VARIABLES):
            return cls()
        for name, value in found.items():
            if not value:
                raise WorkersError(
                    f"A search in several processes needs {', '.join(VARIABLES)}, but {name} is "
                    "not set: set it, or none of them."
                )
        port = found[PORT]
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise WorkersError(f"{PORT} must be a port from 1 to 65535. Received: {PORT}={port!r}")
        return cls(found[NAME], f"{found[ADDRESS]}:{port}")


def serve(oracle: SoundOracle, role: Role, *, join_seconds: float, lost_seconds: float) -> None:
    """Serves workers until all trials have ended and the workers know it.

    Args:
        oracle: What says what is tried.
        role: Of this process, the chief.
        join_seconds: How long there may be no worker.
        lost_seconds: How long a worker may be silent before its trials run again elsewhere.

    Raises:
        WorkersError: If the port is taken, or no worker is there.
    """
    if oracle.ended:
        return
    desk = _Desk(oracle, lost_seconds)
    server = _open(desk, role)
    try:
        desk.wait(join_seconds)
        oracle.end()
    finally:
        # Trials that run stay so in the files, whose workers may still be at them.
        server.stop(grace=1.0).wait()


def _open(desk: _Desk, role: Role) -> grpc.Server:
    # With SO_REUSEPORT, two chiefs would share a port.
    server = grpc.server(
        futures.ThreadPoolExecutor(_MAX_THREADS), options=[("grpc.so_reuseport", 0)]
    )
    protos.get_service_grpc().add_OracleServicer_to_server(desk, server)
    handler = grpc.unary_unary_rpc_method_handler(desk.greet)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(PRESENCE, {"Greet": handler})]
    )
    port = 0
    with contextlib.suppress(RuntimeError):
        port = server.add_insecure_port(role.address)
    if not port:
        raise WorkersError(
            f"The chief of the search cannot listen at {role.address}: end what listens there, "
            f"or choose another {PORT} for all its processes, and an {ADDRESS} of this machine."
        )
    server.start()
    return server


def as_message(trial: Trial) -> Any:
    """Returns a trial as a message: its name and status, for the rest is in its file.

    Keras-tuner would round numbers to 32 bits, and print the conditions of the space.
    """
    return Trial(HyperParameters(), trial_id=trial.trial_id, status=trial.status).to_proto()


@dataclasses.dataclass
class _Worker:
    """A worker as the chief knows it.

    Args:
        session: What tells its process from an earlier one of the same name.
        seen: When it last said that it is there.
        stopped: Whether it knows that nothing is left.
    """

    session: str
    seen: float
    stopped: bool = False


class _Desk(OracleServicer):
    """Answers the workers, each in a thread."""

    def __init__(self, oracle: SoundOracle, lost_seconds: float) -> None:
        super().__init__(oracle)
        self._lost_seconds = lost_seconds
        self._digest = oracle.digest()
        self._workers: dict[str, _Worker] = {}
        self._past: set[str] = set()
        self._failure: Exception | None = None

    def greet(self, request: bytes, context: Any) -> bytes:
        """Takes down that a worker is there."""
        said = json.loads(request)
        if said["search"] != self._digest:
            return ELSEWHERE.encode()
        if said["session"] in self._past:
            return f"Another worker has the name {said['name']!r}: give each its own.".encode()
        worker = self._workers.get(said["name"])
        if worker and worker.session == said["session"]:
            worker.seen = time.monotonic()
        else:
            self._welcome(said["name"], said["session"], worker)
        return HERE.encode()

    def _welcome(self, name: str, session: str, former: _Worker | None) -> None:
        with self.oracle.lock:
            if former:
                self._past.add(former.session)
                self._free(name)
            self._workers[name] = _Worker(session, time.monotonic())

    def _free(self, name: str) -> None:
        self.oracle.put_back(lambda slot: slot.rpartition("-")[0] == name)

    def CreateTrial(self, request: Any, context: Any) -> Any:  # noqa: N802 - keras-tuner's name
        """Gives a worker its next trial."""
        with self.oracle.lock:
            worker = self._workers.get(request.tuner_id.rpartition("-")[0])
            if worker is None:
                # It was given up, and asks again when it has said that it is there.
                return context.abort(grpc.StatusCode.UNAVAILABLE, "not known")
            with self._failing():
                trial = self.oracle.create_trial(request.tuner_id)
            worker.stopped = trial.status == TrialStatus.STOPPED
            return protos.get_service().CreateTrialResponse(trial=as_message(trial))

    def EndTrial(self, request: Any, context: Any) -> Any:  # noqa: N802 - keras-tuner's name
        """Takes what a worker says of a trial."""
        with self._failing():
            return super().EndTrial(request, context)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Keeps an error for the chief's own thread, which it ends."""
        try:
            yield
        except Exception as error:
            self._failure = self._failure or error
            raise

    def wait(self, join_seconds: float) -> None:
        """Waits until nothing is left to do."""
        last = time.monotonic()
        while not self._is_over():
            if self._failure:
                raise self._failure
            if self._workers:
                last = time.monotonic()
            elif time.monotonic() - last > join_seconds:
                raise WorkersError(
                    f"No worker of the search was there for {join_seconds:.0f} seconds: start "
                    f"them with the same {ADDRESS} and {PORT}, see their logs for an error, and "
                    "resume the search."
                )
            time.sleep(_LOOK_SECONDS)

    def _is_over(self) -> bool:
        with self.oracle.lock:
            now = time.monotonic()
            for name, worker in list(self._workers.items()):
                if now - worker.seen > self._lost_seconds:
                    del self._workers[name]
                    self._free(name)
            told = all(worker.stopped for worker in self._workers.values())
            return self.oracle.nothing_left and told
