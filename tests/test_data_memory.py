import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from resnet_keras.data import check, disk, load_images, memory, read_image
from resnet_keras.data.disk import PictureFile
from resnet_keras.data.listing import Listing
from resnet_keras.data.memory import available_memory
from resnet_keras.data.threads import THREADS, decoding_pool
from resnet_keras.errors import DataError
from resnet_keras.records import Recipe
from tests.pictures import make_tree

SIZE = 16 * 16 * 3
ALL = np.arange(30)


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "photos", count=10)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files of its own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setenv("RESNET_KERAS_MEMORY", "0")


def load(tree, **options):
    return load_images(tree, image_size=16, batch_size=4, validation=0, test=0, **options).train


def expected(tree, part):
    return [read_image(tree / name, part.recipe) for name in part.names]


# What is allowed


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512MB", 512_000_000),
        ("512 mb", 512_000_000),
        ("0.5GB", 500_000_000),
        ("3kb", 3000),
        (" 12B ", 12),
    ],
)
def test_the_environment_bounds_the_memory(monkeypatch, value, size):
    monkeypatch.setenv("RESNET_KERAS_MEMORY", value)
    assert available_memory() == size


@pytest.mark.parametrize("value", ["", "1000TB"])
def test_the_environment_allows_no_more_than_there_is(monkeypatch, value):
    monkeypatch.setenv("RESNET_KERAS_MEMORY", value)
    assert 2**20 < available_memory() < 10**14


@pytest.mark.parametrize("value", ["much", "-1", "1e9", "2GiB", "GB", "1,5GB", "nan"])
def test_a_wrong_amount_is_refused(monkeypatch, value):
    monkeypatch.setenv("RESNET_KERAS_MEMORY", value)
    with pytest.raises(ValueError, match=f"such as 512MB. Received: RESNET_KERAS_MEMORY='{value}'"):
        available_memory()


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1000000\n", "memory.current": "300000\n"}, 700_000),
        (
            {
                "memory.max": "1000000\n",
                "memory.current": "900000\n",
                "memory.stat": "anon 100000\ninactive_file 800000\nactive_file 5\n",
            },
            900_000,
        ),
        ({"memory.max": "1000\n", "memory.current": "2000\n"}, 0),
    ],
)
def test_the_limit_of_a_container_counts_without_cached_files(tmp_path, monkeypatch, files, free):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    assert available_memory() == free


def test_a_container_without_limit_leaves_what_the_machine_has(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    assert available_memory() > 2**20


def test_no_more_pictures_are_kept_in_memory_than_allowed(tree, monkeypatch):
    monkeypatch.setattr(disk, "DISK_SHARE", 0)
    monkeypatch.setenv("RESNET_KERAS_MEMORY", str(15 * SIZE * 4))
    part = load(tree)
    kept = expected(tree, part)
    for path in tree.glob("*/*.png"):
        path.unlink()
    np.testing.assert_array_equal(part.pictures(ALL[:15]), kept[:15])
    for index in ALL[15:]:
        with pytest.raises(DataError, match="cannot be read"):
            part.pictures([index])


# On disk


def open_files(folder):
    """Files of a folder that this process holds open, whether or not they have a name."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(link))
    return [link for link in links if link.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_the_file_has_no_name_and_goes_with_the_pictures(tree, temporary, no_memory):
    part = load(tree)
    kept = expected(tree, part)
    for path in tree.glob("*/*.png"):
        path.unlink()
    np.testing.assert_array_equal(part.pictures(ALL), kept)
    assert list(temporary.iterdir()) == []
    assert len(open_files(temporary)) == 1
    del part
    assert open_files(temporary) == []


@contextlib.contextmanager
def full_disk(size):
    """Writing fails behind `size` bytes of a file, and is cut short where it crosses them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing(tree, temporary, no_memory):
    with full_disk(int(10.5 * SIZE)):
        part = load(tree)
        np.testing.assert_array_equal(part.pictures(ALL), expected(tree, part))
    kept = expected(tree, part)
    for path in tree.glob("*/*.png"):
        path.unlink()
    np.testing.assert_array_equal(part.pictures(ALL[:10]), kept[:10])
    with pytest.raises(DataError, match="cannot be read"):
        part.pictures([10])


def test_without_a_place_for_the_file_pictures_are_decoded_again(
    tree, temporary, no_memory, monkeypatch
):
    monkeypatch.setattr(disk, "FOLDERS", (lambda: str(temporary / "missing"),))
    part = load(tree)
    np.testing.assert_array_equal(part.pictures(ALL), expected(tree, part))


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a folder in memory")
def test_a_folder_in_memory_is_passed_over(temporary, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as in_memory:
        monkeypatch.setattr(disk, "FOLDERS", (lambda: in_memory, lambda: str(temporary)))
        kept = PictureFile(3, (2, 2))
        assert open_files(in_memory) == []
        assert len(open_files(temporary)) == 1
        del kept


def test_a_picture_that_was_never_written_is_not_there():
    kept = PictureFile(4, (2, 3))
    kept.write(2, np.arange(6, dtype=np.uint8).reshape(2, 3))
    found = np.zeros((2, 3), np.uint8)
    assert [kept.read(place, found) for place in (0, 1, 3, 4)] == [False] * 4
    assert kept.read(2, found)
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_picture_that_was_written_in_part_is_not_there():
    kept, picture = PictureFile(3, (16, 16, 3)), np.full((16, 16, 3), 9, np.uint8)
    with full_disk(int(1.5 * SIZE)):
        kept.write(1, picture)
    kept.write(2, picture)  # there is room again
    assert [kept.read(place, picture) for place in (1, 2)] == [False, True]


@pytest.mark.parametrize("pictures", [0.5, 1.5])
def test_where_a_picture_could_not_replace_another_there_is_none(pictures):
    kept, picture = PictureFile(3, (16, 16, 3)), np.full((16, 16, 3), 9, np.uint8)
    kept.write(1, picture)
    with full_disk(int(pictures * SIZE)):
        kept.write(1, picture + 1)
    assert not kept.read(1, picture)
    kept.write(1, picture + 2)
    assert kept.read(1, picture)
    assert np.unique(picture).tolist() == [11]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_reading_from_disk_takes_no_memory():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    picture = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    kept, found = PictureFile(40, picture.shape), np.zeros_like(picture)
    before = resident()
    for place in range(40):
        kept.write(place, picture)
    assert all(kept.read(place, found) for place in range(40))
    np.testing.assert_array_equal(found, picture)
    assert resident() - before < 20 * 2**20  # of 120 MB


KILLED = """
import sys, time
from resnet_keras.data import load_images
part = load_images(sys.argv[1], image_size=16, validation=0, test=0).train
part.pictures([3])
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_file(tree, temporary):
    environment = {**os.environ, "TMPDIR": str(temporary), "RESNET_KERAS_MEMORY": "0"}
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tree)], stdout=subprocess.PIPE, env=environment
    )
    with child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
    assert list(temporary.iterdir()) == []


# Threads


def listing(fetch, count=64):
    return Listing(
        "pictures",
        tuple(map(str, range(count))),
        np.arange(count, dtype=np.int32) % 2,
        np.full(count, "train"),
        ("a", "b"),
        fetch,
    )


def store(fetch):
    return check.Store(listing(fetch), recipe=Recipe(image_size=8, crop=1.0), max_pixels=10**6)


@pytest.mark.skipif(THREADS == 1, reason="one core")
@pytest.mark.parametrize("again", [False, True])
def test_pictures_are_decoded_side_by_side(no_memory, monkeypatch, again):
    monkeypatch.setattr(disk, "DISK_SHARE", 0)
    both = threading.Barrier(2)

    def fetch(row):
        both.wait(30)  # for another thread, or the test fails
        return np.full((8, 8, 3), row, np.uint8)

    pictures = store(fetch)
    if again:
        assert pictures.pictures(np.arange(64))[:, 0, 0, 0].tolist() == list(range(64))
    else:
        assert not any(checked.reason for checked in pictures.check(np.arange(64)).values())


def test_no_more_pictures_are_decoded_at_a_time_than_there_are_threads(no_memory, monkeypatch):
    monkeypatch.setattr(disk, "DISK_SHARE", 0)
    lock, inside, most = threading.Lock(), 0, 0

    def decode(*args, **options):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        try:
            return check_decode(*args, **options)
        finally:
            with lock:
                inside -= 1

    check_decode = check.decode
    monkeypatch.setattr(check, "decode", decode)
    pictures = store(lambda row: np.zeros((200, 200, 3), np.uint8))
    pictures.check(np.arange(64))
    pictures.pictures(np.arange(64))
    assert most <= THREADS


def test_one_pool_serves_all(no_memory, monkeypatch):
    monkeypatch.setattr(disk, "DISK_SHARE", 0)
    seen = set()

    def fetch(row):
        seen.add(threading.current_thread())
        return np.zeros((8, 8, 3), np.uint8)

    for _ in range(3):
        pictures = store(fetch)
        pictures.check(np.arange(64))
        pictures.pictures(np.arange(64))
    assert len(seen) <= THREADS
    assert decoding_pool() is decoding_pool()
