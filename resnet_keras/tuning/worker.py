"""A worker of a search in several processes: what it asks of the chief."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.src import protos

from resnet_keras.errors import WorkersError
from resnet_keras.tuning import files
from resnet_keras.tuning.chief import ADDRESS, OPTIONS, PORT, Role, as_message
from resnet_keras.tuning.presence import Presence
from resnet_keras.tuning.record import SoundOracle

_LOOK_SECONDS = 0.2
# A shared folder may show a new file late.
_SHARED_SECONDS = 10.0


class OracleOfChief:
    """The chief's oracle, seen from a worker.

    Args:
        oracle: Made as the chief's.
        role: Of this process.
        join_seconds: How long to wait for the chief.
        lost_seconds: How long it may be silent after that.
    """

    def __init__(
        self, oracle: SoundOracle, role: Role, *, join_seconds: float, lost_seconds: float
    ) -> None:
        self._oracle, self._role, self._join_seconds = oracle, role, join_seconds
        self._presence = Presence(oracle, role, lost_seconds)

    @contextlib.contextmanager
    def joined(self) -> Iterator[bool]:
        """Stays with the chief in the block; yields whether there is anything to do.

        Raises:
            WorkersError: If the chief never came, is gone, or does not want this worker.
        """
        with grpc.insecure_channel(self._role.address, options=OPTIONS) as channel:
            self._stub = protos.get_service_grpc().OracleStub(channel)
            with self._presence, self._interruptible():
                try:
                    yield self._join()
                except KeyboardInterrupt:
                    self._presence.check()
                    raise

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Lets the loss of the chief end a training where interrupts are ignored, as by `nohup`."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            yield
            return

        def handle(number: int, frame: object) -> None:
            if self._presence.is_lost:
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _join(self) -> bool:
        end = time.monotonic() + self._join_seconds
        while not self._presence.is_here:
            self._presence.check()
            if self._presence.is_over:
                return False
            if time.monotonic() > end:
                raise WorkersError(
                    f"The chief of the search at {self._role.address} never answered within "
                    f"{self._join_seconds:.0f} seconds{self._presence.why}: start it, see its "
                    f"log for an error, and check {ADDRESS} and {PORT}."
                )
            time.sleep(_LOOK_SECONDS)
        return True

    def create_trial(self, slot: str) -> Trial:
        """Returns the next trial for a slot of this worker, as `SoundOracle.create_trial`."""
        request = protos.get_service().CreateTrialRequest(tuner_id=slot)
        answer = self._call(self._stub.CreateTrial, request)
        if answer is None:
            return self._oracle.new_trial("", {}, TrialStatus.STOPPED)
        name, status = answer.trial.trial_id, TrialStatus.from_proto(answer.trial.status)
        if status != TrialStatus.RUNNING:
            return self._oracle.new_trial(name, {}, status)
        return self._oracle.new_trial(name, self._values(name))

    def _values(self, name: str) -> dict[str, Any]:
        """Returns the values of a trial, which the chief has written."""
        folder = self._oracle.folder(name)
        end = time.monotonic() + _SHARED_SECONDS
        while (stored := files.read_stored(folder)) is None:
            if time.monotonic() > end:
                raise WorkersError(
                    f"The worker {self._role.name} does not find what the chief has written in "
                    f"{folder}: all processes of a search must share its folder."
                )
            time.sleep(_LOOK_SECONDS)
        return stored.values

    def end_trial(self, trial: Trial) -> None:
        """Tells the chief that the outcome of a trial is in its file."""
        request = protos.get_service().EndTrialRequest(trial=as_message(trial))
        self._call(self._stub.EndTrial, request)

    def _call(self, method: Any, request: Any) -> Any:
        """Returns the chief's answer; None if the search is over. It may be asked twice."""
        while not self._presence.is_over:
            call = method.future(request, wait_for_ready=True)
            try:
                return self._answer(call)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise WorkersError(
                        f"The chief of the search at {self._role.address} failed "
                        f"({error.details()}): see its log, and resume the search."
                    ) from error
            finally:
                call.cancel()
            time.sleep(_LOOK_SECONDS)
        return None

    def _answer(self, call: Any) -> Any:
        while not self._presence.is_over:
            self._presence.check()
            with contextlib.suppress(grpc.FutureTimeoutError):
                return call.result(timeout=_LOOK_SECONDS)
        return None
