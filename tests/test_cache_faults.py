"""What the boundary cache survives: kills, company, damage, full disks, signals."""

import contextlib
import dataclasses
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from resnet_keras.distribution.sharing import Sharing
from resnet_keras.errors import RunError
from resnet_keras.training.cache import cache_key
from resnet_keras.training.feed import cached_feed
from resnet_keras.training.rows import DiskRows
from resnet_keras.training.shards import ROW_ID
from tests.cached_networks import VARIED, build, compute, counting, every, make_images

# Extracts into a folder in shards of 32 rows, and says so after each batch.
PROGRAM = """
import sys
from pathlib import Path
from resnet_keras.training import rows
from tests.cached_networks import VARIED, build, compute, make_images
rows.SHARD_ROWS = 32
images = make_images(count=50)
print("ready", flush=True)
sys.stdin.readline()
compute(build(), images, "stage1", views=VARIED, home=Path(sys.argv[1]),
        on_batch=lambda count: print("done", count, flush=True))
"""


@pytest.fixture(scope="module")
def images():
    return make_images()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("resnet_keras.training.rows.SHARD_ROWS", 32)


def test_a_killed_extraction_goes_on_after_its_last_shard(model, tmp_path, small_shards):
    with start(tmp_path) as process:
        process.stdin.write("\n")
        process.stdin.flush()
        done = [process.stdout.readline() for _ in range(9)]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert done[:3] == ["ready\n", "done 0\n", "done 32\n"]
    assert done[-1].startswith("done")
    images = make_images(count=50)
    shards = len(list(tmp_path.rglob("[!.]*.rows")))
    assert 5 <= shards < 5 * 150 // 32
    seen = []
    kept = compute(model, images, "stage1", views=VARIED, home=tmp_path, on_batch=seen.append)
    assert seen[0] == 32 * shards
    assert sum(seen) == 5 * len(images)
    np.testing.assert_array_equal(
        every(kept), every(compute(model, images, "stage1", views=VARIED))
    )


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_fill_one_folder_at_once(model, tmp_path):
    with start(tmp_path) as first, start(tmp_path) as second:
        for process in (first, second):
            assert process.stdout.readline() == "ready\n"
        for process in (first, second):
            process.stdin.write("\n")
            process.stdin.flush()
        for process in (first, second):
            process.stdout.read()
    assert (first.returncode, second.returncode) == (0, 0)
    images, reads = counting(make_images(count=50))
    kept = compute(model, images, "stage1", views=VARIED, home=tmp_path)
    assert reads.count == 0
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".rows"}
    np.testing.assert_array_equal(
        every(kept), every(compute(model, images, "stage1", views=VARIED))
    )


def test_stores_that_are_filled_in_turn_leave_each_other_alone(tmp_path, small_shards):
    ids = np.array(sorted(b"%016d" % number for number in range(100)), ROW_ID)
    rows = np.random.default_rng(0).integers(0, 256, (100, 50)).astype(np.uint8)
    orders = [np.arange(100), np.arange(100)[::-1], np.arange(100)]
    stores, fillings = [], []
    for order in orders:
        stores.append(DiskRows(tmp_path / "key", ids, 50))
        fillings.append(stores[-1].filling(order))
        next(fillings[-1])
    for start in range(0, 100, 10):
        for order, filling in zip(orders, fillings, strict=True):
            filling.send(rows[order[start : start + 10]])
        late = DiskRows(tmp_path / "key", ids, 50)
        there = np.flatnonzero(~late.missing)
        np.testing.assert_array_equal(late.read(there), rows[there])
    for store in stores:
        assert not store.missing.any()
        np.testing.assert_array_equal(store.read(orders[1]), rows[::-1])
    # Two of the three wrote the same shards.
    assert sorted(path.suffix for path in (tmp_path / "key").iterdir()) == 8 * [".rows"]


def truncate(shard, other):
    shard.write_bytes(shard.read_bytes()[:-1])


def cut_short(shard, other):
    shard.write_bytes(shard.read_bytes()[:20])


def lengthen(shard, other):
    shard.write_bytes(shard.read_bytes() + b"\0")


def rename_a_row(shard, other):
    content = bytearray(shard.read_bytes())
    content[60] ^= 1
    shard.write_bytes(content)


def replace_by_that_of_another_cache(shard, other):
    shard.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "damage", [truncate, cut_short, lengthen, rename_a_row, replace_by_that_of_another_cache]
)
def test_a_shard_that_is_not_what_was_written_is_set_aside(
    images, model, tmp_path, small_shards, damage
):
    expected = every(compute(model, images, "stage1", home=tmp_path))
    foreign = compute(model, images, "stage1", home=tmp_path / "other", dtype="bfloat16")
    shards = sorted(path for path in tmp_path.rglob("*.rows") if foreign.key not in path.parts)
    damage(shards[0], next((tmp_path / "other" / foreign.key).glob("*.rows")))
    seen = []
    kept = compute(model, images, "stage1", home=tmp_path, on_batch=seen.append)
    assert seen[0] in (28, 32)
    assert sum(seen) == 60
    assert shards[0].with_suffix(".damaged").exists()
    np.testing.assert_array_equal(every(kept), expected)


def test_a_row_that_changed_on_disk_is_never_returned(images, model, tmp_path):
    kept = compute(model, images, "stage1", home=tmp_path)
    expected = every(kept)
    shard = next(tmp_path.rglob("*.rows"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(RunError, match=r"\.rows is damaged and was set aside: start again"):
        every(kept)
    np.testing.assert_array_equal(every(compute(model, images, "stage1", home=tmp_path)), expected)


def test_a_shard_that_went_away_is_named(images, model, tmp_path):
    kept = compute(model, images, "stage1", home=tmp_path)
    next(tmp_path.rglob("*.rows")).unlink()
    with pytest.raises(RunError, match=r"\.rows can no longer be read .*No such file"):
        every(kept)


def test_what_is_missing_is_computed_to_the_same_bits_and_alone(model, tmp_path, monkeypatch):
    monkeypatch.setattr("resnet_keras.training.rows.SHARD_ROWS", 1)
    images, reads = counting(make_images(count=15))
    expected = every(compute(model, images, "stage1", views=VARIED, bits=32, home=tmp_path))
    assert not np.array_equal(expected[3], expected[4])
    shards = sorted(tmp_path.rglob("*.rows"))
    assert len(shards) == 5 * len(images)
    rng = np.random.default_rng(0)
    for lost in (1, 40, 200):
        for shard in rng.choice(shards, lost, replace=False):
            shard.unlink()
        reads.count, seen = 0, []
        found = compute(
            model, images, "stage1", views=VARIED, bits=32, home=tmp_path, on_batch=seen.append
        )
        assert (reads.count, sum(seen[1:])) == (lost, lost)
        np.testing.assert_array_equal(every(found), expected)


@pytest.mark.parametrize("changed", ["seed", "augmentation", "version"])
def test_varied_views_of_another_kind_are_computed_anew(model, tmp_path, monkeypatch, changed):
    images = make_images(count=8)
    before = every(compute(model, images, "stage1", views=VARIED, home=tmp_path))
    other = {
        "seed": {"seed": 4},
        "augmentation": {"augmentation": dataclasses.replace(VARIED.augmentation, zoom=0.1)},
        "version": {},
    }[changed]
    if changed == "version":
        monkeypatch.setattr("resnet_keras.training.views.VERSION", -1)
    views, seen = dataclasses.replace(VARIED, **other), []
    found = compute(model, images, "stage1", views=views, home=tmp_path, on_batch=seen.append)
    # The picture and its flip are exact.
    assert seen[0] == 2 * len(images)
    same = [np.array_equal(*pair) for pair in zip(every(found), before, strict=True)]
    assert same == [True, True, *3 * [changed == "version"]]


def test_a_full_disk_ends_in_one_sentence_and_keeps_what_was_whole(
    images, model, tmp_path, small_shards
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    seen = []

    def on_batch(count):
        seen.append(count)
        if len(list(tmp_path.rglob("[!.]*.rows"))) == 3:
            # No file may grow beyond, which is what a full disk looks like.
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with pytest.raises(RunError, match=rf"{tmp_path}.*\.rows could not be written \(.*free sp"):
            compute(model, images, "stage1", views=VARIED, home=tmp_path, on_batch=on_batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    names = [path.suffix for path in tmp_path.rglob("*") if path.is_file()]
    assert set(names) == {".rows"}
    seen.clear()
    kept = compute(model, images, "stage1", views=VARIED, home=tmp_path, on_batch=seen.append)
    assert seen[0] == 32 * len(names)
    np.testing.assert_array_equal(
        every(kept), every(compute(model, images, "stage1", views=VARIED))
    )


def test_a_place_that_cannot_be_written_is_named(images, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"could not be written \(Not a directory\)"):
        compute(model, images, "stage1", home=tmp_path / "file")


@pytest.mark.parametrize("home", ["memory", "disk"])
def test_stopping_leaves_no_thread_and_no_torn_file(images, model, tmp_path, home):
    before = threading.active_count()
    seen = []

    def stop(count):
        seen.append(count)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(
            model, images, "stage1", views=VARIED, home=tmp_path if home == "disk" else None,
            on_batch=stop,
        )  # fmt: skip
    assert threading.active_count() == before
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_goes_wrong_while_reading_ahead_is_raised(images, model):
    class Broken:
        def pictures(self, rows):
            raise RunError("the picture is gone")

    with pytest.raises(RunError, match="the picture is gone"):
        compute(model, dataclasses.replace(images, store=Broken()), "stage1")


def test_only_what_a_dead_writer_left_is_removed(images, model, tmp_path):
    folder = tmp_path / cache_key(model, images, "stage1", bits=8, dtype="float32")
    folder.mkdir()
    old, new = (folder / f".x.0123456{digit}.tmp.rows" for digit in "78")
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    an_hour_ago = time.time() - 3700
    os.utime(old, (an_hour_ago, an_hour_ago))
    compute(model, images, "stage1", home=tmp_path)
    assert not old.exists()
    assert new.exists()


def memory_mb(name):
    """Returns what the system notes under a name about this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024


def test_reading_256_mb_takes_the_memory_of_one_batch(tmp_path):
    count, row_bytes = 4096, 1 << 16
    ids = np.array([b"%016d" % number for number in range(count)], ROW_ID)
    store = DiskRows(tmp_path / "key", ids, row_bytes)
    with contextlib.closing(store.filling(np.arange(count))) as filling:
        next(filling)
        for start in range(0, count, 64):
            numbers = np.arange(start, start + 64).astype(np.uint8)
            filling.send(np.repeat(numbers[:, None], row_bytes, axis=1))
    order = np.random.default_rng(0).permutation(count)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory_mb("VmRSS")
    for start in range(0, count, 64):
        rows = order[start : start + 64]
        assert (store.read(rows)[:, ::4096] == rows.astype(np.uint8)[:, None]).all()
    assert memory_mb("VmHWM") - before < 24  # a batch has 4 MB, and the one before may be alive


def test_a_row_that_is_damaged_during_an_epoch_ends_it_in_one_sentence(images, model, tmp_path):
    kept = compute(model, images, "stage1", home=tmp_path)
    feed = cached_feed(images, kept, sharing=Sharing(len(images), 7), seed=(0,))
    shard = next(tmp_path.rglob("*.rows"))
    shard.write_bytes(shard.read_bytes()[:-5000])
    with pytest.raises(RunError, match=r"^[^\n]*damaged and was set aside: start again.*\.$"):
        for _ in feed.batches():
            pass


def test_files_that_vanish_while_a_cache_is_filled_are_missed(
    images, model, tmp_path, small_shards
):
    def on_batch(count):
        for path in tmp_path.rglob("[!.]*.rows"):
            path.unlink()

    with pytest.raises(RunError, match="must keep its files while they are used"):
        compute(model, images, "stage1", views=VARIED, home=tmp_path, on_batch=on_batch)
