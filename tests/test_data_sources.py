import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from resnet_keras.data import list_pictures, load_images
from resnet_keras.data.folders import read_folder
from resnet_keras.errors import DataError
from tests.pictures import make_arrays, make_split_tree, make_tree


def parts_of(listing):
    return {part: int((listing.parts == part).sum()) for part in set(listing.parts.tolist())}


# Folders


def test_a_class_tree_is_listed_by_sorted_names(tmp_path):
    listing = read_folder(make_tree(tmp_path, ("b", "a", "C"), count=2))
    assert listing.class_names == ("C", "a", "b")
    assert listing.names[:3] == ("C/000.png", "C/001.png", "a/000.png")
    assert listing.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert listing.labels.dtype == np.int32
    assert parts_of(listing) == {"train": 6}


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_parts_are_known_by_their_usual_names(tmp_path, val):
    make_split_tree(tmp_path, counts=(4, 2, 1))
    (tmp_path / "val").rename(tmp_path / "renamed")
    (tmp_path / "renamed").rename(tmp_path / val)
    assert parts_of(read_folder(tmp_path)) == {"train": 12, "val": 6, "test": 3}


def test_a_train_folder_alone_is_a_part(tmp_path):
    make_tree(tmp_path / "train", count=2)
    assert read_folder(tmp_path).class_names == ("ash", "birch", "cedar")


def test_a_class_may_be_called_train(tmp_path):
    listing = read_folder(make_tree(tmp_path, ("bus", "car", "train"), count=2))
    assert listing.class_names == ("bus", "car", "train")


def test_other_folders_beside_the_parts_are_noted(tmp_path):
    make_split_tree(tmp_path)
    make_tree(tmp_path, ("extra",), count=2)
    assert any("extra/" in note for note in read_folder(tmp_path).notes)


def test_pictures_of_a_test_part_without_classes_are_noted(tmp_path):
    make_tree(tmp_path / "train", count=4)
    make_tree(tmp_path, ("test",), count=3)
    listing = read_folder(tmp_path)
    assert parts_of(listing) == {"train": 12}
    assert "3 pictures of test lie in no class folder and were left out." in listing.notes


def test_the_class_list_comes_from_the_training_part(tmp_path):
    make_split_tree(tmp_path, ("a", "b", "c"))
    shutil.rmtree(tmp_path / "val" / "b")
    data = load_images(tmp_path, image_size=8)
    assert data.class_names == data.val.class_names == ("a", "b", "c")
    assert set(data.val.labels.tolist()) == {0, 2}
    assert "The val part has no pictures of 'b'." in data.report.notes


def test_a_class_that_only_the_test_part_has_is_an_error(tmp_path):
    make_split_tree(tmp_path, ("a", "b"))
    make_tree(tmp_path / "test", ("z",), count=1)
    with pytest.raises(DataError, match=r"test part .* training part lacks: 'z'"):
        read_folder(tmp_path)


def test_val_without_train_is_an_error(tmp_path):
    make_split_tree(tmp_path)
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(DataError, match="no class folders in train/"):
        read_folder(tmp_path)


def test_two_folders_for_one_part_are_an_error(tmp_path):
    make_split_tree(tmp_path)
    make_tree(tmp_path / "valid", count=1)
    with pytest.raises(DataError, match="two folders for the same part"):
        read_folder(tmp_path)


def test_a_missing_folder_is_named_with_the_layout(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; expected one sub-folder a class"):
        load_images(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_is_named(tmp_path):
    path = tmp_path / "photos.zip"
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"photos\.zip is a file.*expected one sub-folder"):
        load_images(str(path))


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_an_empty_folder_is_named_with_the_layout(tmp_path, below):
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match=r"holds no pictures; expected one sub-folder a class"):
        load_images(tmp_path)


def test_pictures_without_class_folders_are_counted(tmp_path):
    make_tree(tmp_path, ("photos",), count=5)
    with pytest.raises(DataError, match="5 pictures, but none in a class folder"):
        load_images(tmp_path / "photos")


def test_one_class_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"at least two classes.* has 1 \('only'\)"):
        load_images(make_tree(tmp_path, ("only",)))


def test_an_empty_class_folder_is_an_error(tmp_path):
    make_tree(tmp_path)
    (tmp_path / "dogwood").mkdir()
    with pytest.raises(DataError, match=r"'dogwood' .* no training pictures"):
        load_images(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "ash/._000.png",
        "ash/.DS_Store",
        "ash/Thumbs.db",
        "ash/desktop.ini",
        "ash/.ipynb_checkpoints/000.png",
        ".cache/000.png",
        "__MACOSX/000.png",
    ],
)
def test_hidden_and_system_files_are_ignored(tmp_path, name):
    make_tree(tmp_path)
    before = read_folder(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\0\5\x16\7")
    after = read_folder(tmp_path)
    assert (after.names, after.ignored, after.notes) == (before.names, before.ignored, ())


def test_files_that_are_no_pictures_are_counted_by_extension(tmp_path):
    make_tree(tmp_path, count=4)
    for name in ("ash/a.txt", "ash/b.TXT", "birch/c.csv", "labels.json", "ash/README"):
        (tmp_path / name).write_text("x")
    data = load_images(tmp_path, image_size=8)
    assert data.report.ignored == {".csv": 1, ".json": 1, ".txt": 2, "(none)": 1}


def test_pictures_under_any_name_are_found(tmp_path):
    make_tree(tmp_path, count=4)
    (tmp_path / "ash" / "000.png").rename(tmp_path / "ash" / "noname")
    (tmp_path / "ash" / "001.png").rename(tmp_path / "ash" / "001.JPG")
    report = load_images(tmp_path, image_size=8).report
    assert report.changed["extension"].count == 2
    assert report.changed["extension"].first == ("ash/001.JPG", "ash/noname")
    assert not report.ignored


@pytest.mark.parametrize("extension", ["webp", "tiff", "jfif", "avif", "bmp", "gif", "jp2"])
def test_less_usual_formats_are_not_skipped(tmp_path, extension):
    from PIL import Image

    make_tree(tmp_path, count=4)
    Image.open(tmp_path / "ash" / "000.png").save(tmp_path / "ash" / f"x.{extension}")
    report = load_images(tmp_path, image_size=8).report
    assert sum(report.counts[part]["ash"] for part in report.counts) == 5
    assert not report.changed


def test_deeper_folders_belong_to_the_class_above_and_are_noted(tmp_path):
    make_tree(tmp_path)
    make_tree(tmp_path / "ash" / "2024", ("may", "june"), count=2)
    listing = read_folder(tmp_path)
    assert listing.class_names == ("ash", "birch", "cedar")
    assert (listing.labels == 0).sum() == 12
    assert listing.notes == ("4 pictures of ash lie in deeper folders and count as 'ash'.",)


def test_links_are_followed_to_files_only(tmp_path):
    make_tree(tmp_path / "photos", count=4)
    make_tree(tmp_path, ("elsewhere",), count=2)
    (tmp_path / "photos" / "ash" / "link.png").symlink_to(tmp_path / "elsewhere" / "000.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    listing = read_folder(tmp_path / "photos")
    assert "ash/link.png" in listing.names
    assert len(listing.names) == 13
    assert "The linked folder linked was not followed." in listing.notes
    assert "The linked folder loop was not followed." in listing.notes


def test_a_broken_link_is_a_bad_picture(tmp_path):
    make_tree(tmp_path, count=4)
    (tmp_path / "ash" / "gone.png").symlink_to(tmp_path / "nowhere")
    report = load_images(tmp_path, image_size=8, on_bad_image="skip").report
    assert report.bad == (("ash/gone.png", "cannot be read (No such file or directory)"),)


def test_a_pipe_does_not_block(tmp_path):
    make_tree(tmp_path, count=4)
    os.mkfifo(tmp_path / "ash" / "pipe.png")
    assert read_folder(tmp_path).ignored == {".png": 1}


def test_names_that_are_not_utf_8_can_be_reported(tmp_path):
    make_tree(tmp_path, count=4)
    os.rename(tmp_path / "ash" / "000.png", os.fsencode(tmp_path / "ash") + b"/\xff.png")
    data = load_images(tmp_path, image_size=8)
    names = {name for part in (data.train, data.val, data.test) for name in part.names}
    assert r"ash/\xff.png" in names
    assert all(name.encode() for name in names)


# Arrays


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_with_any_usual_channels_are_read(channels):
    pictures, labels = make_arrays(2, count=4, size=8)
    pictures = np.concatenate([pictures, np.full((8, 8, 8, 1), 255, np.uint8)], -1)
    data = load_images(pictures[..., :channels], labels=labels, image_size=8, validation=0, test=0)
    assert data.train.pictures([0]).shape == (1, 8, 8, 3)
    assert data.class_names == ("0", "1")
    assert data.train.labels.tolist() == labels.tolist()


def test_class_names_of_arrays_are_sorted():
    pictures, _ = make_arrays(2, count=2, size=8)
    data = load_images(pictures, labels=["dog", "cat", "dog", "cat"], validation=0, test=0)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1, -1, 1], DataError, "but the label -1"),
        ([0, 2, 2, 0], DataError, "but the label 2"),
        ([0, 0, 0, 0], DataError, "at least two classes"),
        ([0, 1, 1], ValueError, "one value for each of 4"),
        ([[0, 1], [1, 0], [0, 1], [1, 0]], ValueError, "one value for each of 4"),
        ([0.0, 1.0, 0.0, 1.0], TypeError, "integers or strings"),
        (None, ValueError, "need `labels=`"),
    ],
)
def test_labels_of_arrays_are_checked(labels, error, message):
    with pytest.raises(error, match=message):
        load_images(make_arrays(2, count=2, size=8)[0], labels=labels)


@pytest.mark.parametrize(
    ("pictures", "error"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), TypeError),
        (np.zeros((4, 8, 8), np.uint8), ValueError),
        (np.zeros((4, 3, 8, 8), np.uint8), ValueError),
        (np.zeros((4, 0, 8, 3), np.uint8), ValueError),
        (np.zeros((0, 8, 8, 3), np.uint8), DataError),
    ],
)
def test_pixels_of_arrays_are_checked(pictures, error):
    with pytest.raises(error):
        load_images(pictures, labels=[0, 1, 0, 1][: len(pictures)])


def test_labels_go_with_arrays_only(tmp_path):
    with pytest.raises(ValueError, match="`labels` goes with an array"):
        load_images(make_tree(tmp_path), labels=[0, 1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"validation": 1.0},
        {"test": -0.1},
        {"validation": 0.5, "test": 0.5},
        {"batch_size": 0},
        {"image_size": 0},
        {"on_bad_image": "ignore"},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    pictures, labels = make_arrays(2, size=8)
    with pytest.raises(ValueError, match="Received"):
        load_images(pictures, labels=labels, **arguments)


# Paths of pictures


def test_list_pictures_takes_files_folders_and_patterns(tmp_path):
    root = make_tree(tmp_path, ("a", "b"), count=2)
    (root / "a" / "notes.txt").write_text("x")
    (root / "b" / ".hidden.png").write_bytes(b"")
    everything = sorted(root.glob("*/0*.png"))
    assert list_pictures([root]) == everything
    assert list_pictures([str(root / "*" / "*")]) == everything
    assert list_pictures([f"{root}/**/*.png", root / "a"]) == everything
    assert list_pictures([root / "a" / "notes.txt"]) == [root / "a" / "notes.txt"]


def test_list_pictures_takes_a_name_with_brackets_as_it_is(tmp_path):
    path = tmp_path / "a[1].png"
    path.write_bytes(b"")
    assert list_pictures([path]) == [path]


@pytest.mark.parametrize("name", ["nothing.jpg", "*.jpg", "empty"])
def test_list_pictures_names_what_matches_nothing(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name.replace("*", r"\*")):
        list_pictures([Path(tmp_path / name)])
