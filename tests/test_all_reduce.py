"""Processes of one machine sum up through the memory that they share."""

import itertools
import math
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from resnet_keras.distribution.all_reduce import AllReduce, all_reduce_of
from resnet_keras.distribution.workers import Workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name")
SECONDS = 30


@pytest.fixture
def connected():
    """Makes the ends of so many processes, each of which a thread stands for."""
    made = []

    def make(count):
        pairs = [socket.socketpair() for _ in range(count - 1)]
        made.extend(AllReduce(index, count, [pair[1]]) for index, pair in enumerate(pairs, start=1))
        made.append(AllReduce(0, count, [pair[0] for pair in pairs]))
        return made[-1:] + made[:-1]

    yield make
    for each in made:
        each.close()


def in_threads(work, values):
    with ThreadPoolExecutor(len(values)) as pool:
        return [each.result(SECONDS) for each in [pool.submit(work, value) for value in values]]


def drawn(seed, shapes, dtype):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def summed(values):
    """Returns the sum of the first half and the second, each place with its counterpart."""
    if len(values) == 1:
        return values[0]
    half = math.ceil(len(values) / 2)
    pairs = itertools.zip_longest(values[:half], values[half:])
    return summed([a if b is None else a + b for a, b in pairs])


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_get_the_sum_as_a_tree(connected, count, dtype):
    # One that fits a part of a line, a scalar, none that is whole, and one that needs more memory.
    rounds = [[(16,)], [()], [(3, 5), (7,), (2, 2, 3)], [(1000, 33), (1,)], [(4,)]]
    ends = connected(count)

    def work(index):
        return [ends[index](*drawn((index, turn), shapes, dtype))
                for turn, shapes in enumerate(rounds)]  # fmt: skip

    found = in_threads(work, range(count))
    for turn, shapes in enumerate(rounds):
        given = [drawn((index, turn), shapes, dtype) for index in range(count)]
        for place, shape in enumerate(shapes):
            expected = summed([each[place] for each in given])
            for index in range(count):
                # Also those of earlier rounds are as they were.
                assert found[index][turn][place].shape == shape
                np.testing.assert_array_equal(found[index][turn][place], expected)


def test_infinity_is_summed_without_a_word(connected):
    ends = connected(2)
    values = [np.float32([np.inf, np.nan, 1]), np.float32([-np.inf, 1, 3e38])]
    found = in_threads(lambda index: ends[index](values[index])[0], range(2))
    np.testing.assert_array_equal(found[0], np.float32([np.nan, np.nan, 3e38]))


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_the_end_of_one_ends_the_wait_of_all_others(connected, gone):
    ends = connected(3)
    in_threads(lambda end: end(np.ones(4)), ends)

    def work(index):
        if index == gone:
            ends[index].close()
            return
        with pytest.raises(OSError, match=r"closed|reset|Broken pipe"):
            ends[index](np.ones(4))

    in_threads(work, range(3))
    assert [end.is_broken for end in ends] == [index != gone for index in range(3)]


@pytest.mark.parametrize("sizes", [(4, 4000), (4000, 4), (4, 100)])
def test_processes_that_do_different_work_do_not_sum(connected, sizes):
    ends = connected(2)
    in_threads(lambda end: end(np.ones(1000)), ends)

    def work(index):
        with pytest.raises(OSError, match=r"exchange 2|closed|reset|Broken pipe"):
            ends[index](np.ones(sizes[index]))

    in_threads(work, range(2))


def gathering(count):
    """Returns workers that exchange bytes as processes do: all wait for all."""
    given, barrier = [b""] * count, threading.Barrier(count)

    def gather(index, value):
        given[index] = value
        barrier.wait(SECONDS)
        found = list(given)
        barrier.wait(SECONDS)
        return found

    return [Workers(index, count, lambda value, index=index: gather(index, value))
            for index in range(count)]  # fmt: skip


def joined(able):
    workers = gathering(len(able))
    return in_threads(
        lambda index: all_reduce_of(workers[index], able=able[index]), range(len(able))
    )


def test_workers_of_one_machine_find_each_other():
    ends = joined([True] * 3)
    found = in_threads(lambda index: ends[index](np.full(5, 10.0**index))[0], range(3))
    assert [list(each) for each in found] == [[111.0] * 5] * 3
    for end in ends:
        end.close()


@pytest.mark.parametrize("able", [(False, True, True), (True, True, False), (False,) * 3])
def test_all_do_without_if_one_of_them_has_to(able):
    before = len(os.listdir("/proc/self/fd"))
    assert joined(able) == [None] * 3
    assert len(os.listdir("/proc/self/fd")) == before
