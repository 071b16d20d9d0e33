"""Workers that share out the decoding of pictures, against one process that decodes them all.

Most workers here are threads that exchange bytes in memory; the last tests have processes.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_keras import Phase, build_resnet, fine_tune
from resnet_keras.data import Augmentation, check, disk, load_images, pipeline, read_image
from resnet_keras.distribution.cluster import Cluster
from resnet_keras.distribution.replicas import Replicas, replicas_of
from resnet_keras.distribution.sharing import Sharing
from resnet_keras.distribution.strategies import get_strategy
from resnet_keras.distribution.workers import Workers
from resnet_keras.errors import DataError, WorkersError
from resnet_keras.training.feed import picture_feed
from resnet_keras.training.resizing import at_size
from tests.pictures import break_files, make_arrays, make_split_tree, make_tree

SECONDS = 30  # until a worker that waits for another in vain fails
OPTIONS = {"image_size": 16, "batch_size": 7, "validation": 0.2, "test": 0.2}
NO_OPTIONS = ({},)
BYTES = 16 * 16 * 3
opened: list[Path] = []


@sys.addaudithook
def _note_pictures_that_are_read(event, arguments):
    if event == "open" and arguments[1] in ("r", "rb") and "/photos/" in str(arguments[0]):
        opened.append(Path(arguments[0]))


class Worker(Replicas):
    """A worker of several that are threads of this process."""

    def __init__(self, index, count, *, gather, local=1):
        self.workers = Workers(index, count, gather)
        self.count, self.local, self.first = count * local, local, index * local


def exchange(count):
    """Returns for each thread the function that gathers what all of them give."""
    barrier, slots = threading.Barrier(count, timeout=SECONDS), [b""] * count

    def gathering(index):
        def gather(value):
            slots[index] = bytes(value)
            barrier.wait()
            found = list(slots)
            barrier.wait()
            return found

        return gather

    return [gathering(index) for index in range(count)]


@pytest.fixture
def together(monkeypatch):
    """Returns a function that loads in several workers at a time, each from its own source."""
    monkeypatch.setattr(pipeline, "replicas_of", lambda given: given)

    def load(sources, *, local=1, each=NO_OPTIONS, **options):
        count = len(sources)
        workers = [
            Worker(index, count, gather=gather, local=local)
            for index, gather in enumerate(exchange(count))
        ]

        def one(worker):
            index = worker.workers.index
            given = OPTIONS | options | each[index % len(each)]
            try:
                return load_images(sources[index], strategy=worker, **given)
            except Exception as error:
                return error

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, workers))

    return load


@pytest.fixture
def alone():
    """Returns a function that loads in one process, before or after `together` is set up."""

    def load(source, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "replicas_of", replicas_of)
            return load_images(source, **OPTIONS | options)

    return load


@pytest.fixture
def copies(tmp_path):
    """Returns a function that gives each worker a copy of a tree, as on a machine of its own."""

    def copy(tree, count=2):
        roots = [tmp_path / f"machine{index}" / "photos" for index in range(count)]
        for root in roots:
            shutil.copytree(tree, root)
        return roots

    return copy


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "photos", count=10)


def parts_of(data):
    return [part for part in (data.train, data.val, data.test) if part is not None]


def assert_equal(data, expected):
    """Compares all that is known of the pictures, and the pictures."""
    assert data.fingerprint == expected.fingerprint
    assert data.report.to_dict() == expected.report.to_dict()
    for ours, theirs in zip(parts_of(data), parts_of(expected), strict=True):
        assert (ours.names, ours.digests) == (theirs.names, theirs.digests)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        every = np.arange(len(theirs))
        np.testing.assert_array_equal(ours.pictures(every), theirs.pictures(every))


def names_below(root):
    """Returns the pictures of a folder that were opened since the last call, sorted."""
    found = [path.relative_to(root).as_posix() for path in opened if path.is_relative_to(root)]
    opened[:] = [path for path in opened if not path.is_relative_to(root)]
    return sorted(found)


def sharing_of(data, worker, count, local=1):
    numbers = range(worker * local, (worker + 1) * local)
    return Sharing(len(data.train), 7, replicas=count * local, numbers=numbers)


def used_by(data, worker, count, local=1):
    """Returns the names of what a worker sees in three epochs, their validation and a test."""
    sharing = sharing_of(data, worker, count, local)
    seen = {
        int(index) for epoch in range(3) for row in sharing.order((0, epoch))
        for index in sharing.own(row) if index >= 0
    }  # fmt: skip
    names = [data.train.names[index] for index in seen]
    return sorted(
        names + [name for part in parts_of(data)[1:] for name in part.names[worker::count]]
    )


# The same as in one process


@pytest.mark.parametrize(("count", "local"), [(1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["tree", "parts", "arrays", "no_shares"])
def test_every_worker_has_what_one_process_has(together, alone, tmp_path, kind, count, local):
    options = {}
    if kind == "arrays":
        source, labels = make_arrays(3, count=10, size=20)
        options["labels"] = labels
    elif kind == "parts":
        source = make_split_tree(tmp_path / "photos", counts=(7, 3, 4))
    else:
        source = make_tree(tmp_path / "photos", count=10)
    if kind == "no_shares":
        options |= {"validation": 0, "test": 0}
    expected = alone(source, **options)
    for data in together([source] * count, local=local, **options):
        assert_equal(data, expected)


def test_three_workers_share_ten_pictures(together, alone, tmp_path, copies):
    tree = make_tree(tmp_path / "photos", ("ash", "birch"), count=5)
    roots = copies(tree, 3)
    expected = alone(tree)
    for root, data in zip(roots, together(roots), strict=True):
        assert data.fingerprint == expected.fingerprint
        assert 2 <= len(names_below(root)) <= 5


def test_the_report_of_changes_is_that_of_one_process(together, alone, tree):
    for number in range(12):
        Image.new("RGBA", (20, 20), (number, 0, 0, 9)).save(tree / "ash" / f"clear{number}.png")
    Image.new("RGB", (20, 20)).save(tree / "birch" / "really.jpg", "PNG")
    (tree / "ash" / "notes.txt").write_text("x")
    expected = alone(tree)
    assert {"alpha", "extension"} == set(expected.report.changed)
    for data in together([tree, tree]):
        assert_equal(data, expected)


@pytest.mark.parametrize("prepared", ["tfrecord", "array_record"])
def test_a_dataset_and_its_metadata_are_those_of_one_process(
    together, alone, tmp_path, monkeypatch, prepared
):
    from tests.test_data_elpv import Tiny, tfds

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tfds.disable_progress_bar()
    Tiny(data_dir=tmp_path, file_format=prepared).download_and_prepare()
    expected = alone("tfds:tiny_pictures")
    for data in together(["tfds:tiny_pictures"] * 2):
        assert_equal(data, expected)
        for ours, theirs in zip(parts_of(data), parts_of(expected), strict=True):
            np.testing.assert_array_equal(ours.metadata["kind"], theirs.metadata["kind"])


# What is decoded where


@pytest.mark.parametrize(("count", "local"), [(2, 1), (3, 1), (2, 2)])
def test_each_worker_decodes_what_it_will_use_and_no_more(together, tree, copies, count, local):
    roots = copies(tree, count)
    loaded = together(roots, local=local)
    found = [names_below(root) for root in roots]
    assert found == [used_by(data, *of, local) for of, data in _numbered(loaded)]
    names = [name for part in parts_of(loaded[0]) for name in part.names]
    assert sorted(name for each in found for name in each) == sorted(names)


def _numbered(loaded):
    return [((index, len(loaded)), data) for index, data in enumerate(loaded)]


@pytest.mark.parametrize("place", ["memory", "memory and disk", "disk"])
@pytest.mark.parametrize("size", [16, 8])
def test_training_reads_no_file_where_there_is_room_for_the_own(
    together, tree, copies, monkeypatch, place, size
):
    # Of batches of 7 the first of two workers has 4.
    counts, in_memory = (16, 14), {"memory": 16, "memory and disk": 6, "disk": 0}[place]
    monkeypatch.setenv("RESNET_KERAS_MEMORY", str(int(in_memory * BYTES / check.MEMORY_SHARE)))
    if place == "memory":
        monkeypatch.setattr(disk, "DISK_SHARE", 0)
    roots = copies(tree)
    for (worker, count), data in _numbered(together(roots)):
        assert len(names_below(roots[worker])) == counts[worker]
        images = at_size(data.train, size)
        feed = picture_feed(
            images, Augmentation(), sharing=sharing_of(data, worker, count), seed=(0,)
        )
        for epoch in range(2):
            for step in range(feed.steps):
                feed.batch(epoch, step)
        own = data.val.subset(np.arange(worker, len(data.val), count))
        expected = [read_image(tree / name, data.recipe) for name in own.names]
        np.testing.assert_array_equal(own.pictures(np.arange(len(own))), expected)
        assert names_below(roots[worker]) == []


def test_pictures_of_others_are_decoded_when_they_are_asked_for(together, tree, copies):
    roots = copies(tree)
    data, _ = together(roots)
    own = set(names_below(roots[0]))
    others = [name for name in data.test.names if name not in own]
    assert others
    found = data.test.pictures(np.arange(len(data.test)))
    expected = [read_image(tree / name, data.recipe) for name in data.test.names]
    np.testing.assert_array_equal(found, expected)
    assert names_below(roots[0]) == sorted(others)


@pytest.mark.parametrize("size", [16, 8])
def test_a_worker_without_a_share_of_the_last_batch_reads_none(together, tree, size):
    """Of 18 pictures in batches of 17 the last one is the first worker's."""
    data = together([tree, tree], batch_size=17, validation=0.2, test=0.2)[1]
    assert len(data.train) == 18
    sharing = Sharing(18, 17, replicas=2, numbers=range(1, 2))
    feed = picture_feed(at_size(data.train, size), Augmentation(), sharing=sharing, seed=(0,))
    batch = feed.batch(0, 1)
    assert batch.weights.tolist() == [0]
    assert batch.inputs[0].shape == (1, size, size, 3)


def test_the_meter_counts_own_pictures(together, tree, capfd, monkeypatch):
    monkeypatch.setattr(check, "PATIENCE_S", 0.0)
    together([tree, tree])
    lines = sorted(capfd.readouterr().err.splitlines())
    assert lines == ["checked 1 of 14 pictures", "checked 1 of 16 pictures"]


# Bad pictures


def test_bad_pictures_stop_all_workers_with_the_sentence_of_one_process(together, alone, tree):
    break_files(tree, share=0.4)
    with pytest.raises(DataError) as expected:
        alone(tree)
    for error in together([tree] * 3):
        assert type(error) is DataError
        assert str(error) == str(expected.value)
    assert str(error).startswith("12 of 30 pictures")


@pytest.mark.parametrize("in_memory", [30, 0])
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_workers_go_on_without_bad_pictures(
    together, alone, tree, copies, monkeypatch, in_memory, share
):
    monkeypatch.setenv("RESNET_KERAS_MEMORY", str(int(in_memory * BYTES / check.MEMORY_SHARE)))
    break_files(tree, share=share)
    expected = alone(tree, on_bad_image="skip")
    assert len(expected.report.bad) == round(30 * share)
    roots = copies(tree)
    for (worker, count), data in _numbered(together(roots, on_bad_image="skip")):
        report = expected.report.to_dict() | {"source": str(roots[worker])}
        assert data.report.to_dict() == report
        assert data.fingerprint == expected.fingerprint
        loaded, own = names_below(roots[worker]), used_by(data, worker, count)
        assert len(set(loaded)) == len(loaded)  # none is decoded twice
        assert set(own) < set(loaded)
        assert_digests(data, own)
        assert names_below(roots[worker]) == []


def assert_digests(data, names):
    """Compares pixels with the digests, which are those of one process where fingerprints are."""
    for part in parts_of(data):
        places = [place for place, name in enumerate(part.names) if name in names]
        for place, pixels in zip(places, part.pictures(places), strict=True):
            assert part.digests[place] == hashlib.sha256(pixels.tobytes()).digest()


def test_a_class_without_a_good_picture_is_one_sentence_for_all(together, alone, tree):
    for path in (tree / "birch").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError) as expected:
        alone(tree, on_bad_image="skip")
    errors = together([tree, tree], on_bad_image="skip")
    assert {str(error) for error in errors} == {str(expected.value)}


# Machines that differ


def test_a_file_that_one_machine_lacks_ends_all_with_its_name(together, tree, copies):
    roots = copies(tree, 3)
    (roots[2] / "birch" / "003.png").unlink()
    errors = together(roots)
    assert {(type(error), str(error)) for error in errors} == {
        (
            DataError,
            "All workers must have the same pictures, but worker 2 of 3 has 29 pictures and the "
            "chief 30, and lacks birch/003.png: give all of them the same files.",
        )
    }
    assert [names_below(root) for root in roots] == [[], [], []]


def test_a_file_that_one_machine_has_more_ends_all_with_its_name(together, tree, copies):
    roots = copies(tree)
    shutil.copy(roots[1] / "ash" / "000.png", roots[1] / "ash" / "100.png")
    for error in together(roots):
        assert "worker 1 of 2 has 31 pictures and the chief 30, and alone has ash/100.png" in str(
            error
        )


def test_other_classes_of_the_same_pictures_end_all(together):
    pictures, labels = make_arrays(2, count=6, size=20)
    errors = together([pictures] * 2, each=[{"labels": labels}, {"labels": 1 - labels}])
    assert {str(error) for error in errors} == {
        "All workers must have the same pictures, but worker 1 of 2 has other classes or parts "
        "than the chief: give all of them the same files."
    }


def test_a_file_that_one_machine_cannot_read_is_bad_for_all(together, alone, tree, copies):
    roots = copies(tree)
    together(roots)
    names_below(roots[0])
    name = names_below(roots[1])[4]
    (roots[1] / name).write_bytes(b"")
    errors = together(roots)
    assert all(isinstance(error, DataError) for error in errors)
    assert all(f"\n  {name} is empty" in str(error) for error in errors)
    (tree / name).write_bytes(b"")
    expected = alone(tree, on_bad_image="skip")
    for data in together(roots, on_bad_image="skip"):
        assert data.fingerprint == expected.fingerprint
        assert data.report.bad == expected.report.bad


def test_a_file_that_only_its_second_owner_cannot_read_is_bad_for_all(
    together, alone, tree, copies
):
    roots = copies(tree)
    for root in (tree, *roots):
        (root / "ash" / "000.png").write_bytes(b"")
    data, _ = together(roots, on_bad_image="skip")
    first, second = (names_below(root) for root in roots)
    moved = sorted(set(first) & set(second))
    assert moved  # pictures that both have decoded
    name = next(name for name in moved if name in used_by(data, 1, 2))
    (roots[1] / name).write_bytes(b"")
    (tree / name).write_bytes(b"")
    expected = alone(tree, on_bad_image="skip")
    for data in together(roots, on_bad_image="skip"):
        assert data.fingerprint == expected.fingerprint
        assert [bad for bad, _ in data.report.bad] == ["ash/000.png", name]


def test_a_folder_that_one_machine_lacks_ends_all_with_one_sentence(together, tree, copies):
    roots = copies(tree, 3)
    shutil.rmtree(roots[1])
    errors = together(roots)
    assert {type(error) for error in errors} == {DataError}
    (sentence,) = {str(error) for error in errors}
    assert sentence.startswith("Worker 1 of 3 cannot load the pictures, so that none goes on: ")
    assert f"The folder {roots[1]} does not exist" in sentence


def test_a_folder_that_is_nowhere_is_the_sentence_of_one_process(together, alone, tmp_path):
    with pytest.raises(DataError) as expected:
        alone(tmp_path / "missing")
    errors = together([tmp_path / "missing"] * 2)
    assert {str(error) for error in errors} == {str(expected.value)}


def test_an_argument_that_is_wrong_in_one_worker_ends_all(together):
    pictures, labels = make_arrays(2, count=6, size=20)
    errors = together([pictures] * 2, each=[{"labels": labels}, {"labels": labels[1:]}])
    assert {type(error) for error in errors} == {DataError}
    assert all("Worker 1 of 2 cannot load" in str(error) for error in errors)
    errors = together([pictures] * 2, labels=labels[1:])
    assert {type(error) for error in errors} == {ValueError}


def test_a_failure_while_one_worker_decodes_ends_all(together, tree, monkeypatch):
    lock, calls = threading.Lock(), []

    def available():
        with lock:
            calls.append(0)
            if len(calls) == 2:
                raise MemoryError
        return 10**6

    monkeypatch.setattr(check, "available_memory", available)
    errors = together([tree, tree])
    assert {type(error) for error in errors} == {DataError}
    assert all(str(error).endswith("so that none goes on: MemoryError") for error in errors)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"batch_size": 8}, {"on_bad_image": "skip"}, {"image_size": 17}]
)
def test_other_settings_in_one_worker_end_all(together, tree, other):
    errors = together([tree] * 3, each=[{}, {}, other])
    assert {type(error) for error in errors} == {WorkersError}
    (sentence,) = {str(error) for error in errors}
    ((name, value),) = other.items()
    assert f"worker 2 of 3 has {name}={value!r} and the chief {name}=" in sentence


# Processes


def worker(folder, trained):
    """Loads good and bad pictures as one of two processes, and writes what came of it."""
    strategy = get_strategy("multiworker", quiet=True)
    index = replicas_of(strategy).workers.index
    tree, damaged = (folder / kind / "photos" for kind in ("good", "damaged"))
    data = load_images(tree, strategy=strategy, **OPTIONS)
    facts = {"good": facts_of(data), "decoded": names_below(tree)}
    facts["skipped"] = facts_of(
        load_images(damaged, strategy=strategy, on_bad_image="skip", **OPTIONS)
    )
    for name, source in (("bad", damaged), ("missing", tree if index else folder / "none")):
        with pytest.raises(DataError) as error:
            load_images(source, strategy=strategy, **OPTIONS)
        facts[name] = str(error.value)
    if trained:
        facts["trained"] = train(tree, strategy, folder)
    (folder / f"{index}.json").write_text(json.dumps(facts))


def facts_of(data):
    return [data.fingerprint, data.report.to_dict(), [part.names for part in parts_of(data)]]


def train(tree, strategy, folder):
    """Trains from kept activations, then from smaller and from whole pictures.

    Returns:
        What was read before, and meanwhile; and the names of the test part.
    """
    options = OPTIONS | {"image_size": 48, "batch_size": 8}
    data = load_images(tree, strategy=strategy, **options)
    read = [names_below(tree)]
    phase = Phase("all", epochs=2, learning_rate=1e-4)
    fine_tune(
        build_resnet(18, num_classes=3, width=0.125),
        data,
        run_dir=folder / "run",
        phases=[Phase("stage4", epochs=2), dataclasses.replace(phase, image_size=32), phase],
        cache="memory",
        strategy=strategy,
        quiet=True,
    )
    return [*read, names_below(tree), data.test.names]


def run_two(folder, *, trained=False):
    """Returns what each of two processes wrote."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        addresses = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second))
    code = (
        "import pathlib, sys; from tests.test_data_sharing import worker; "
        f"worker(pathlib.Path(sys.argv[1]), {trained})"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "TF_CONFIG": Cluster(addresses, index).to_tf_config(),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for child in children:
            output, _ = child.communicate(timeout=300)
            assert child.returncode == 0, output[-3000:]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]


@pytest.fixture
def trees(tmp_path):
    """Good and damaged pictures in folders that all workers read."""
    good, damaged = (
        make_tree(tmp_path / kind / "photos", count=10) for kind in ("good", "damaged")
    )
    break_files(damaged, share=0.2)
    return good, damaged


def test_two_processes_have_what_one_has(tmp_path, trees):
    good, damaged = trees
    first, second = run_two(tmp_path)
    expected = load_images(good, **OPTIONS)
    skipped = load_images(damaged, on_bad_image="skip", **OPTIONS)
    for found in (first, second):
        for ours, theirs in ((found["good"], expected), (found["skipped"], skipped)):
            assert ours == json.loads(json.dumps(facts_of(theirs)))
    assert [len(found["decoded"]) for found in (first, second)] == [16, 14]
    assert len({*first["decoded"], *second["decoded"]}) == 30
    with pytest.raises(DataError) as error:
        load_images(damaged, **OPTIONS)
    assert first["bad"] == second["bad"] == str(error.value)
    assert first["missing"] == second["missing"]
    assert "Worker 0 of 2 cannot load the pictures" in first["missing"]


@pytest.mark.slow
def test_training_in_two_processes_reads_no_picture_again(tmp_path, trees):
    """But for those of the test part that the chief shows in its report."""
    first, second = (found["trained"] for found in run_two(tmp_path, trained=True))
    assert [len(loaded) for loaded, *_ in (first, second)] == [15, 15]
    assert second[1] == []
    assert set(first[1]) <= set(first[2]) & set(second[0])
