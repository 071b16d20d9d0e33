"""How a worker of a search says that it is there, and learns whether the chief is."""

from __future__ import annotations

import json
import secrets
import signal
import threading
import time

import grpc

from resnet_keras.errors import WorkersError
from resnet_keras.tuning import files
from resnet_keras.tuning.chief import ELSEWHERE, HERE, OPTIONS, PRESENCE, Role
from resnet_keras.tuning.files import SEARCH
from resnet_keras.tuning.record import SoundOracle

# In the time after which a silent worker is lost.
_GREETINGS = 15
_JOIN_PAUSE = 0.2


class Presence:
    """Greets the chief from a thread, while the main one trains.

    Args:
        oracle: Made as the chief's.
        role: Of this process.
        lost_seconds: How long the chief may be silent.

    Attributes:
        is_here: Whether the chief has answered.
        is_over: Whether it is gone because nothing is left to do.
        why: Why it did not answer, in brackets.
    """

    def __init__(self, oracle: SoundOracle, role: Role, lost_seconds: float) -> None:
        self._oracle, self._role, self._lost_seconds = oracle, role, lost_seconds
        said = {"name": role.name, "search": oracle.digest(), "session": secrets.token_hex(8)}
        self._greeting = json.dumps(said).encode()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.is_here = self.is_over = self._is_elsewhere = False
        self._error = self.why = ""

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def is_lost(self) -> bool:
        """Whether the chief is gone, or does not want this worker."""
        return bool(self._error)

    def check(self) -> None:
        """Raises the error if the chief is gone, or does not want this worker."""
        if self._error:
            raise WorkersError(self._error)

    def _run(self) -> None:
        last = time.monotonic()
        with grpc.insecure_channel(self._role.address, options=OPTIONS) as channel:
            greet = channel.unary_unary(f"/{PRESENCE}/Greet")
            while not (self._error or self.is_over or self._stop.is_set()):
                if self._greet(greet):
                    last = time.monotonic()
                else:
                    self._judge(time.monotonic() - last)
                pause = self._lost_seconds / _GREETINGS
                self._stop.wait(pause if self.is_here else min(pause, _JOIN_PAUSE))
        if self._error and self.is_here and not self._stop.is_set():
            _interrupt()

    def _greet(self, greet: grpc.UnaryUnaryMultiCallable) -> bool:
        try:
            answer = greet(self._greeting, timeout=self._lost_seconds / 3).decode()
        except grpc.RpcError as error:
            self._is_elsewhere, self.why = False, f" ({error.details()})"
            return False
        self._is_elsewhere = answer == ELSEWHERE
        if answer == HERE:
            self.is_here = True
        elif self._is_elsewhere:
            self.why = " (it is at another search)"
        else:
            self._error = answer
        return bool(answer == HERE)

    def _judge(self, silent: float) -> None:
        """Finds out why the chief did not answer.

        Before it ever did, a file of an older search may say that nothing is left.
        """
        lost = silent > self._lost_seconds
        if (self.is_here or self._is_elsewhere or lost) and self._has_ended():
            self.is_over = True
        elif self.is_here and lost and not self._error:
            self._error = (
                f"The chief of the search at {self._role.address} is gone: it was silent for "
                f"{self._lost_seconds:.0f} seconds; see its log, and resume the search."
            )

    def _has_ended(self) -> bool:
        """Returns whether the chief has written that nothing is left."""
        state = files.read_mapping(self._oracle.home / SEARCH) or {}
        return state.get("ended") == self._oracle.digest()


def _interrupt() -> None:
    """Ends what the main thread does, which may be a training of hours."""
    if hasattr(signal, "pthread_kill") and callable(signal.getsignal(signal.SIGINT)):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
