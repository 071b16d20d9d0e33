"""Runs pictures through the frozen part in batches of one size, reading ahead, writing behind."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from resnet_keras.data import Images
from resnet_keras.training.rows import Store
from resnet_keras.training.views import EXTRACTION_BATCH, Views

# Batches that wait on either side of the network.
AHEAD = 2
Item = TypeVar("Item")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """Pictures that go through the network together.

    Args:
        view: Their view.
        pictures: Their indices, `EXTRACTION_BATCH` at most.
        rows: Where each of them belongs in the store.
    """

    view: int
    pictures: np.ndarray
    rows: np.ndarray


def plan_batches(places: np.ndarray, missing: np.ndarray) -> list[Batch]:
    """Returns the batches that fill the missing rows, each row once.

    Args:
        places: Row of each picture in each view, `(views, pictures)`; -1 for those not wanted.
        missing: Which rows are wanted, bool `(rows,)`.
    """
    batches = []
    for view, rows in enumerate(places):
        first = np.sort(np.unique(rows, return_index=True)[1])
        first = first[rows[first] >= 0]
        wanted = first[missing[rows[first]]]
        for start in range(0, len(wanted), EXTRACTION_BATCH):
            pictures = wanted[start : start + EXTRACTION_BATCH]
            batches.append(Batch(view, pictures, rows[pictures]))
    return batches


def picture_reader(images: Images, views: Views) -> Callable[[Batch], Any]:
    """Returns the function from a batch to its pixels, a float32 tensor.

    Every batch has `EXTRACTION_BATCH` pictures, the last one repeated where there are fewer: for
    short batches TensorFlow takes other kernels, whose results differ in the last bits.
    """
    transform = functools.lru_cache(maxsize=1)(
        functools.partial(views.transform, count=len(images))
    )

    def read(batch: Batch) -> Any:
        pixels, pictures = _filled(images.pictures(batch.pictures)), _filled(batch.pictures)
        return tf.cast(transform(batch.view)(pixels, pictures), tf.float32)

    return read


def row_reader(rows: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[Batch], Any]:
    """Returns the function from a batch to its rows at an earlier boundary, filled likewise."""
    return lambda batch: tf.constant(_filled(rows(batch.pictures, batch.view)))


def _filled(values: np.ndarray) -> np.ndarray:
    missing = EXTRACTION_BATCH - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values


def extract(
    batches: list[Batch],
    store: Store,
    *,
    read: Callable[[Batch], Any],
    network: Callable[[Any], Any],
    on_batch: Callable[[int], None],
) -> None:
    """Fills the store with what the network makes of the batches.

    While a batch is in the network, the next ones are read and the last ones written, each in a
    thread of its own. What goes wrong in any of them, or in `on_batch`, ends all of it.

    Args:
        batches: What to compute.
        store: Where to.
        read: Returns what the network takes of a batch; called in one thread, in order.
        network: Returns the rows of a batch, uint8 `(EXTRACTION_BATCH, row_bytes)`.
        on_batch: Called with the number of rows of each batch that was written.
    """
    filling = store.filling(np.concatenate([batch.rows for batch in batches]))

    def write(result: tuple[Batch, Any]) -> int:
        batch, rows = result
        filling.send(np.asarray(rows)[: len(batch.rows)])
        return len(batch.rows)

    with contextlib.closing(filling), _thread() as reader, _thread() as writer:
        next(filling)
        inputs = _ahead(reader, lambda batch: (batch, read(batch)), batches)
        computed = ((batch, network(values)) for batch, values in inputs)
        for count in _ahead(writer, write, computed):
            on_batch(count)


@contextlib.contextmanager
def _thread() -> Iterator[Executor]:
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Yields the results in order; those of the next `AHEAD` items are worked on meanwhile."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
