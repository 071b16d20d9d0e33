"""The processes that train together, as the environment variable TF_CONFIG lists them."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from resnet_keras.errors import WorkersError

VARIABLE = "TF_CONFIG"
# All that take part in synchronous training; TensorFlow refuses a "master" in it.
CHIEF, WORKER = "chief", "worker"
_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_SHOWN = 200  # characters of what was received


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes that train together, and which of them this is.

    Args:
        addresses: "host:port" of each process, that of the chief first.
        index: Place of this process among them, from 0.

    Example:
        >>> from resnet_keras.distribution.cluster import Cluster
        >>> cluster = Cluster(("10.0.0.1:2222", "10.0.0.2:2222"), 1)
        >>> cluster.count, cluster.is_chief
        (2, False)
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def count(self) -> int:
        """Number of processes."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what all share."""
        return self.index == 0

    def name(self, index: int) -> str:
        """Returns what messages call a process: its role and its address."""
        return f"{f'worker {index}' if index else 'the chief'} at {self.addresses[index]}"

    @classmethod
    def from_environment(cls) -> Cluster | None:
        """Returns the cluster of TF_CONFIG, or None if this process trains alone.

        Raises:
            WorkersError: If TF_CONFIG is no description of a cluster and of a task in it.
        """
        text = os.environ.get(VARIABLE, "").strip()
        config = _read(text) if text else {}
        if not config:
            return None
        chiefs, workers = _tasks(config)
        kind, index = _task(config, {CHIEF: len(chiefs), WORKER: len(workers)})
        place = index + (len(chiefs) if kind == WORKER else 0)
        return cls(chiefs + workers, place) if len(chiefs + workers) > 1 else None

    def to_tf_config(self) -> str:
        """Returns the TF_CONFIG of this process; all are workers, the first of them leads."""
        task = {"type": WORKER, "index": self.index}
        return json.dumps({"cluster": {WORKER: list(self.addresses)}, "task": task})


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of "host:port"; an IPv6 host stands in brackets.

    Raises:
        ValueError: If it has another form, or a port outside 1 to 65535.

    Example:
        >>> from resnet_keras.distribution.cluster import split_address
        >>> split_address("[::1]:2222")
        ('::1', 2222)
    """
    host, _, digits = address.rpartition(":")
    port = int(digits) if digits.isdecimal() and digits.isascii() and len(digits) < 6 else 0
    in_brackets = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if in_brackets else host
    strange = not bare or any(sign.isspace() or sign in "/[]@" for sign in bare)
    if strange or not 1 <= port <= 65535 or (":" in bare) != in_brackets:
        raise ValueError(f'`address` must be "host:port". Received: address={address!r}')
    return bare, port


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _read(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise WorkersError(
            f"{VARIABLE} must be a JSON object such as {_EXAMPLE}, but it is {_short(text)!r}: "
            "correct it, or unset it to train in one process."
        )
    return config


def _tasks(config: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the addresses of chiefs and of workers."""
    cluster = config.get("cluster")
    if not isinstance(cluster, dict) or not any(cluster.values()):
        raise WorkersError(
            f'{VARIABLE} must have a "cluster" with the addresses of the workers, but it has '
            f"{_short(cluster)}: write it as in {_EXAMPLE}."
        )
    if strange := sorted(kind for kind in cluster if kind not in (CHIEF, WORKER) and cluster[kind]):
        raise WorkersError(
            f'{VARIABLE} lists tasks of the type "{_short(strange[0])}", but training takes part '
            f'in step on "{CHIEF}" and "{WORKER}" alone: start those of other types elsewhere.'
        )
    chiefs, workers = (_addresses(kind, cluster.get(kind) or []) for kind in (CHIEF, WORKER))
    if len(chiefs) > 1:
        raise WorkersError(
            f"{VARIABLE} must have one chief at most, but it has {_short(', '.join(chiefs))}: "
            f'list the others under "{WORKER}".'
        )
    _check_distinct(chiefs + workers)
    return chiefs, workers


def _addresses(kind: str, listed: Any) -> tuple[str, ...]:
    if not isinstance(listed, list):
        raise WorkersError(
            f'{VARIABLE} must have a list of addresses for "{kind}", but it has {_short(listed)}: '
            f"write it as in {_EXAMPLE}."
        )
    for address in listed:
        try:
            split_address(address if isinstance(address, str) else "")
        except ValueError:
            raise WorkersError(
                f'{VARIABLE} must have addresses such as "10.0.0.1:2222" for "{kind}", with a '
                f"port from 1 to 65535, but it has {_short(json.dumps(address))}: correct it."
            ) from None
    return tuple(listed)


def _check_distinct(addresses: tuple[str, ...]) -> None:
    seen: set[tuple[str, int]] = set()
    for address in addresses:
        host, port = split_address(address)
        if (host.lower(), port) in seen:
            raise WorkersError(
                f"{VARIABLE} must have another address for each process, but {_short(address)} "
                "is there twice: give one of the two another port or host."
            )
        seen.add((host.lower(), port))


def _task(config: dict[str, Any], counts: dict[str, int]) -> tuple[str, int]:
    """Returns type and index of the task that this process is."""
    task = config.get("task")
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise WorkersError(
            f'{VARIABLE} must have a "task" with "type" and "index" of this process, but it has '
            f"{_short(task)}: write it as in {_EXAMPLE}."
        )
    kind, index = task["type"], task["index"]
    if kind not in (CHIEF, WORKER):
        raise WorkersError(
            f'{VARIABLE} must call this process "{CHIEF}" or "{WORKER}", which are all that take '
            f"part in training, but it calls it {_short(json.dumps(kind))}: call it one of them."
        )
    return kind, _index(kind, index, counts[kind])


def _index(kind: str, index: Any, count: int) -> int:
    digits = isinstance(index, str) and index.isascii() and index.isdecimal() and len(index) < 10
    number = int(index) if digits or type(index) is int else -1
    received = _short(json.dumps(index))
    if not count:
        raise WorkersError(
            f'{VARIABLE} calls this process {kind} {received}, but its "cluster" lists no {kind}: '
            "list the address of this process there."
        )
    if not 0 <= number < count:
        raise WorkersError(
            f'{VARIABLE} lists addresses of {count} under "{kind}", so the index of this process '
            f"must be from 0 to {count - 1}, but it is {received}: correct it, or list all."
        )
    return number
