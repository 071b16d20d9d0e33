import dataclasses
import hashlib
import json
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_keras.data import check, disk, load_images, read_image
from resnet_keras.errors import DataError
from resnet_keras.records import Recipe
from tests.pictures import break_files, make_arrays, make_split_tree, make_tree


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "photos", count=10)


PLACES = {
    "memory": (30, 0),
    "memory and disk": (15, 30),
    "disk": (0, 30),
    "memory, disk and on demand": (10, 10),
    "on demand": (0, 0),
}


@pytest.fixture(params=PLACES)
def room(request, monkeypatch):
    """Loads with all, some or none of 30 pictures of 16 pixels kept in memory and on disk."""
    in_memory, on_disk = PLACES[request.param]
    keep(monkeypatch, in_memory=in_memory, on_disk=on_disk)


def keep(monkeypatch, *, in_memory, on_disk):
    size = 16 * 16 * 3
    monkeypatch.setattr(check, "available_memory", lambda: in_memory * size / check.MEMORY_SHARE)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    monkeypatch.setattr(disk, "DISK_SHARE", (on_disk + 0.5) * size / free)


def load(tree, **options):
    return load_images(tree, **{"image_size": 16, "batch_size": 4, **options})


# Parts


def test_a_tree_is_split_into_three_stratified_parts(tree):
    data = load(tree, validation=0.2, test=0.3)
    assert [len(part) for part in (data.train, data.val, data.test)] == [15, 6, 9]
    assert np.bincount(data.test.labels).tolist() == [3, 3, 3]
    names = [name for part in (data.train, data.val, data.test) for name in part.names]
    assert len(set(names)) == 30


def test_a_split_is_repeated_by_its_seed(tree):
    first, again, other = (load(tree, seed=seed) for seed in (3, 3, 4))
    assert first.test.names == again.test.names
    assert first.fingerprint == again.fingerprint
    assert first.test.names != other.test.names


def test_no_share_means_no_part(tree):
    data = load(tree, validation=0, test=0)
    assert (data.val, data.test, len(data.train)) == (None, None, 30)
    assert list(data.report.counts) == ["train"]


def test_the_image_size_overrides_the_recipe_and_nothing_else(tree):
    recipe = Recipe(image_size=99, crop=0.5, interpolation="bicubic")
    assert load(tree, recipe=recipe).recipe == dataclasses.replace(recipe, image_size=16)
    assert load(tree, recipe=recipe).train.shape == (16, 16, 3)


# Pictures


def test_pictures_are_those_of_read_image(tree, room):
    part = load(tree).train
    indices = [5, 0, 5, 11]
    expected = [read_image(tree / part.names[index], part.recipe) for index in indices]
    np.testing.assert_array_equal(part.pictures(indices), expected)
    assert part.pictures(np.array([], int)).shape == (0, 16, 16, 3)


def test_labels_are_the_class_folders(tree):
    part = load(tree).train
    assert [part.class_names[label] for label in part.labels] == [
        name.split("/")[0] for name in part.names
    ]


@pytest.mark.parametrize("in_memory", [0, 30])
def test_what_is_kept_is_decoded_once(tree, monkeypatch, in_memory):
    keep(monkeypatch, in_memory=in_memory, on_disk=30 - in_memory)
    part = load(tree).train
    expected = part.pictures([0, 1])
    for path in tree.glob("*/*.png"):
        path.unlink()
    np.testing.assert_array_equal(part.pictures([0, 1]), expected)


def test_a_picture_that_vanishes_is_named(tree, monkeypatch):
    keep(monkeypatch, in_memory=0, on_disk=0)
    part = load(tree).train
    (tree / part.names[2]).unlink()
    with pytest.raises(DataError, match=f"{part.names[2]} cannot be read"):
        part.pictures([1, 2])


def test_a_subset_shares_pictures_and_metadata(tree, room):
    part = load(tree).train
    subset = part.subset([7, 2, 2])
    assert subset.names == tuple(part.names[index] for index in (7, 2, 2))
    assert subset.labels.tolist() == part.labels[[7, 2, 2]].tolist()
    np.testing.assert_array_equal(subset.pictures([0, 1]), part.pictures([7, 2]))
    assert subset.subset([1]).names == (part.names[2],)
    assert subset.fingerprint != part.fingerprint


# tf.data


def test_a_dataset_holds_every_picture_in_order(tree, room):
    part = load(tree).train
    batches = list(part.dataset())
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 4, 4, 2]
    pixels = np.concatenate([images for images, _ in batches])
    np.testing.assert_array_equal(pixels, part.pictures(np.arange(len(part))))
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), part.labels)


def test_a_dataset_knows_its_length_and_its_types(tree):
    dataset = load(tree).train.dataset()
    assert dataset.cardinality() == 6
    assert dataset.element_spec == (
        tf.TensorSpec((None, 16, 16, 3), tf.uint8),
        tf.TensorSpec((None,), tf.int32),
    )


def test_a_dataset_follows_the_order_given_every_time(tree, room):
    part = load(tree).train
    order = np.random.default_rng(0).permutation(len(part))[:7]
    dataset = part.dataset(order)
    first, again = ([labels.numpy() for _, labels in dataset] for _ in range(2))
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(first))
    assert np.concatenate(first).tolist() == part.labels[order].tolist()
    np.testing.assert_array_equal(next(iter(dataset))[0], part.pictures(order[:4]))


def test_no_epoch_waits_for_a_thread_that_tunes(tree):
    batches = load(tree).train.dataset().map(lambda images, labels: images)
    assert batches.options().autotune.enabled is False


def test_a_dataset_feeds_fit(tree):
    import keras

    data = load(tree)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input(data.train.shape), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    history = model.fit(data.train.dataset(), epochs=30, shuffle=False, verbose=0)
    assert history.history["accuracy"][-1] > 0.9  # the made-up classes can be learnt


# Fingerprints


def test_a_fingerprint_does_not_depend_on_memory_or_place(tree, tmp_path, monkeypatch):
    before = load(tree).fingerprint
    keep(monkeypatch, in_memory=0, on_disk=0)
    tree.rename(tmp_path / "moved")
    assert load(tmp_path / "moved").fingerprint == before


def test_a_fingerprint_ignores_how_pixels_are_normalised(tree):
    recipe = Recipe(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert load(tree, recipe=recipe).fingerprint == load(tree).fingerprint


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 17},
        {"recipe": Recipe(crop=0.9)},
        {"recipe": Recipe(interpolation="bicubic")},
        {"validation": 0},
    ],
)
def test_a_fingerprint_changes_with_the_geometry_and_the_parts(tree, options):
    assert load(tree, **options).fingerprint != load(tree).fingerprint


def test_a_fingerprint_changes_with_one_pixel_or_one_label():
    pictures, labels = make_arrays(2, count=6, size=16)
    options = {"recipe": Recipe(image_size=16, crop=1.0), "validation": 0, "test": 0}
    before = load_images(pictures, labels=labels, **options).fingerprint
    assert load_images(pictures, labels=1 - labels, **options).fingerprint != before
    pictures[3, 8, 8, 0] ^= 1
    assert load_images(pictures, labels=labels, **options).fingerprint != before


# Bad pictures and the report


def test_bad_pictures_stop_the_run_with_their_names_and_reasons(tree):
    bad = break_files(tree, share=0.4)
    with pytest.raises(DataError) as error:
        load(tree)
    message = str(error.value)
    assert message.startswith("12 of 30 pictures")
    assert 'on_bad_image="skip"' in message
    assert sum(f"{path.parent.name}/{path.name} " in message for path in bad) == 10
    assert message.endswith("and 2 more")
    reasons = ("is empty", "is truncated", "is a text file", "is an HTML page")
    assert all(reason in message for reason in reasons)


def test_bad_pictures_are_left_out_and_named(tree, room):
    bad = sorted(f"{path.parent.name}/{path.name}" for path in break_files(tree, share=0.2))
    data = load(tree, on_bad_image="skip")
    assert [name for name, _ in data.report.bad] == bad
    used = {name for part in (data.train, data.val, data.test) for name in part.names}
    assert len(used) == 24
    assert not used & set(bad)
    for part in (data.train, data.val, data.test):
        expected = [read_image(tree / name, part.recipe) for name in part.names]
        np.testing.assert_array_equal(part.pictures(np.arange(len(part))), expected)
    assert all(f"{name} is " in str(data.report) for name in bad)


def test_a_class_without_a_good_picture_is_an_error(tree):
    for path in (tree / "birch").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="'birch' has 0"):
        load(tree, on_bad_image="skip", validation=0, test=0)


def test_a_part_without_a_good_picture_is_an_error(tmp_path):
    make_split_tree(tmp_path)
    for path in (tmp_path / "val").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"val part .* has no picture"):
        load(tmp_path, on_bad_image="skip")


def test_pictures_over_the_cap_are_bad(tree):
    Image.new("RGB", (200, 100)).save(tree / "ash" / "huge.png")
    report = load(tree, on_bad_image="skip", max_pixels=19_999).report
    assert [name for name, _ in report.bad] == ["ash/huge.png"]
    assert "200 x 100; the cap is 19,999" in report.bad[0][1]


def test_the_report_can_be_saved_and_read(tree):
    Image.new("RGBA", (20, 20)).save(tree / "ash" / "clear.png")
    (tree / "ash" / "notes.txt").write_text("x")
    (tree / "ash" / "empty.jpg").write_bytes(b"")
    report = load(tree, on_bad_image="skip", validation=0, test=0).report
    assert json.loads(json.dumps(report.to_dict())) == {
        "source": str(tree),
        "counts": {"train": {"ash": 11, "birch": 10, "cedar": 10}},
        "bad": [{"name": "ash/empty.jpg", "reason": "is empty (zero bytes)"}],
        "ignored": {".txt": 1},
        "changed": {"alpha": {"count": 1, "first": ["ash/clear.png"]}},
        "notes": [],
    }
    assert str(report).splitlines() == [
        f"{tree}: 31 pictures",
        "  train: 31 (ash 11, birch 10, cedar 10)",
        "  left out: 1 bad pictures",
        "    ash/empty.jpg is empty (zero bytes)",
        "  passed over: files that are no pictures (1 .txt)",
        "  1 put on white where they are transparent: ash/clear.png",
    ]


def test_unequal_classes_are_noted(tmp_path):
    make_tree(tmp_path, ("common",), count=40, size=8)
    make_tree(tmp_path, ("rare",), count=3, size=8)
    (note,) = load(tmp_path).report.notes
    assert note.startswith("The classes are unequal: 'common' has 28 times")


def test_the_check_is_silent_where_it_is_quick(tree, capfd):
    load(tree)
    assert capfd.readouterr() == ("", "")


def test_a_long_check_says_how_far_it_is(tree, capfd, monkeypatch):
    monkeypatch.setattr(check, "PATIENCE_S", 0.0)
    load(tree)
    assert capfd.readouterr().err.splitlines() == ["checked 1 of 30 pictures"]


def test_no_warning_of_pillow_reaches_the_user(tree, monkeypatch):
    # Above this size Pillow warns, and above twice the size it refuses.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 40 - 1)
    assert not load(tree).report.bad


def test_digests_are_of_the_decoded_pixels(tree):
    part = load(tree).train
    assert part.digests[3] == hashlib.sha256(part.pictures([3])[0].tobytes()).digest()
