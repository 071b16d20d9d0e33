"""What workers tell each other about pictures, so that all know of all and fail together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from resnet_keras.data.check import Checked
from resnet_keras.data.listing import Listing
from resnet_keras.distribution.workers import Workers
from resnet_keras.errors import DataError, WorkersError

_ROW = np.dtype([("row", "<i4"), ("digest", np.uint8, hashlib.sha256().digest_size)])


def agreed_listing(
    workers: Workers, read: Callable[[], Listing], settings: Mapping[str, Any]
) -> Listing:
    """Returns the listing that this worker reads, once all have found theirs to be the same.

    Args:
        workers: Those that share the pictures.
        read: Returns the listing.
        settings: What else all must have in common, as JSON can hold it.

    Raises:
        DataError: In all workers, if one cannot read its listing, or has other pictures.
        WorkersError: In all workers, if one has other settings.
    """
    if workers.count == 1:
        return read()
    found: list[Listing] = []

    def work() -> bytes:
        found.append(read())
        return _to_json([dict(settings), _digest(found[0])])

    given, digests = zip(*map(json.loads, _gathered(workers, work)), strict=True)
    _check_settings(given)
    if len(set(digests)) > 1:
        names = [json.loads(names) for names in workers.gather(_to_json(found[0].names))]
        raise DataError(_difference(names, digests))
    return found[0]


def gather_checked(
    workers: Workers, check: Callable[[], Mapping[int, Checked]]
) -> dict[int, Checked]:
    """Returns what all workers found out about pictures, by row, each about its own.

    Raises:
        DataError: In all workers, if the check of one ends in an error.
    """
    if workers.count == 1:
        return dict(check())
    found: dict[int, Checked] = {}
    for part in _gathered(workers, lambda: _to_bytes(check())):
        found |= _from_bytes(part)
    return found


def _gathered(workers: Workers, work: Callable[[], bytes]) -> list[bytes]:
    """Returns what the work of each worker returned; if that of one fails, all raise."""
    answer, failure = b"", None
    try:
        answer = work()
    # Whatever it is, the others must not wait for this worker.
    except Exception as error:
        failure = error
    text = "" if failure is None else str(failure) or type(failure).__name__
    answers = workers.gather(_to_json(text) + b"\n" + answer)
    parts = [answer.partition(b"\n") for answer in answers]
    texts = [json.loads(part[0]) for part in parts]
    if failure is not None and len(set(texts)) == 1:
        raise failure
    if failed := [index for index, text in enumerate(texts) if text]:
        raise DataError(
            f"Worker {failed[0]} of {len(texts)} cannot load the pictures, so that none goes on: "
            f"{texts[failed[0]]}"
        ) from failure
    return [part[2] for part in parts]


def _digest(listing: Listing) -> str:
    facts = [listing.names, listing.class_names, listing.parts.tolist(), listing.labels.tolist()]
    return hashlib.sha256(_to_json(facts)).hexdigest()


def _check_settings(given: Sequence[Mapping[str, Any]]) -> None:
    for index, settings in enumerate(given):
        for name, value in settings.items():
            if value != given[0][name]:
                raise WorkersError(
                    f"All workers must load the pictures with the same settings, but worker "
                    f"{index} of {len(given)} has {name}={value!r} and the chief "
                    f"{name}={given[0][name]!r}: start all with the same command."
                )


def _difference(names: Sequence[Sequence[str]], digests: Sequence[str]) -> str:
    """Returns how the first worker that differs from the chief does so."""
    odd = next(index for index, digest in enumerate(digests) if digest != digests[0])
    lacks = sorted(set(names[0]) - set(names[odd]))
    more = sorted(set(names[odd]) - set(names[0]))
    counts = f"{len(names[odd]):,} pictures and the chief {len(names[0]):,}"
    if lacks or more:
        which = f"{'lacks' if lacks else 'alone has'} {(lacks or more)[0]}"
        how = f"worker {odd} of {len(names)} has {counts}, and {which}"
    else:
        how = f"worker {odd} of {len(names)} has other classes or parts than the chief"
    return f"All workers must have the same pictures, but {how}: give all of them the same files."


def _to_bytes(checked: Mapping[int, Checked]) -> bytes:
    rows = np.zeros(len(checked), _ROW)
    rows["row"] = list(checked)
    for place, result in enumerate(checked.values()):
        if result.digest:
            rows["digest"][place] = np.frombuffer(result.digest, np.uint8)
    odd = {row: result[1:] for row, result in checked.items() if result.changes or result.reason}
    return _to_json(odd) + b"\n" + rows.tobytes()


def _from_bytes(part: bytes) -> dict[int, Checked]:
    text, _, rows = part.partition(b"\n")
    odd = json.loads(text)
    checked = {}
    for row, digest in np.frombuffer(rows, _ROW):
        changes, reason = odd.get(str(row), ((), ""))
        checked[int(row)] = Checked(b"" if reason else digest.tobytes(), tuple(changes), reason)
    return checked


def _to_json(values: object) -> bytes:
    return json.dumps(values, default=str).encode()
