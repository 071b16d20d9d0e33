import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from resnet_keras.data import load_images, read_image
from resnet_keras.data.elpv import Cell, Elpv, ElpvConfig, read_cells, split_cells
from resnet_keras.errors import DataError
from resnet_keras.records import Recipe
from tests.pictures import make_arrays

elpv_dataset = pytest.importorskip("elpv_dataset")


@pytest.fixture(scope="module")
def root():
    return Path(elpv_dataset.__path__[0]) / "data"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def data(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(home))
        return load_images("tfds:elpv/seed3", recipe=Recipe(image_size=32, crop=1.0), test=0.5)


class Tiny(tfds.core.GeneratorBasedBuilder):
    """A dataset whose class order is not the alphabet's, with a further class label."""

    name = "tiny_pictures"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(16, 16, 3)),
            "label": tfds.features.ClassLabel(names=["zebra", "ant"]),
            "kind": tfds.features.ClassLabel(names=["wild", "tame"]),
            "boxes": tfds.features.Sequence(np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(seed) for seed, name in enumerate(self.splits)}

    splits = ("train", "validation", "test")

    def _generate_examples(self, seed):
        for key, (pixels, label) in enumerate(
            zip(*make_arrays(2, size=16, seed=seed), strict=True)
        ):
            yield key, {"image": pixels, "label": label, "kind": label, "boxes": [0.0]}


class TinyUnlabelled(Tiny):
    """The same without labels."""

    name = "tiny_unlabelled"

    def _info(self):
        features = {"image": tfds.features.Image(shape=(16, 16, 3)), "mask": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, seed):
        yield 0, {"image": np.zeros((16, 16, 3), np.uint8), "mask": 0}


class TinyTestOnly(Tiny):
    """The same without a training part."""

    name = "tiny_test_only"
    splits = ("test",)


# ELPV


def test_elpv_has_the_published_numbers(data):
    assert (len(data.train) + len(data.val), len(data.test)) == (1968, 656)
    assert data.class_names == ("functional", "defective")
    labels = np.concatenate([part.labels for part in (data.train, data.val, data.test)])
    assert np.bincount(labels).tolist() == [1803, 821]  # probability below and from 0.5


def test_elpv_metadata_tells_the_cell_types_apart(data):
    for part in (data.train, data.val, data.test):
        assert set(part.metadata["type"].tolist()) == {"mono", "poly"}
        np.testing.assert_array_equal(part.labels, part.metadata["probability"] >= 0.5)
    mono = data.test.metadata["type"] == "mono"
    assert len(data.test.subset(np.flatnonzero(mono))) == mono.sum() == 268


def test_elpv_pictures_are_those_of_the_package(data, root):
    names = data.test.names[:5]
    assert all(name.startswith("images/cell") for name in names)
    expected = [read_image(root / name, data.recipe) for name in names]
    np.testing.assert_array_equal(data.test.pictures(np.arange(5)), expected)


def test_elpv_files_are_kept_byte_for_byte(home, data, root):
    builder = tfds.builder("elpv/seed3", data_dir=home)
    source = builder.as_data_source("test", decoders={"image": tfds.decode.SkipDecoding()})
    record = source[0]
    assert record["image"] == (root / record["file_name"].decode()).read_bytes()


def test_elpv_splits_are_stratified_by_probability_and_type(root):
    train, test = split_cells(read_cells(root), seed=0)
    assert (len(train), len(test)) == (1968, 656)
    assert not set(train) & set(test)
    kinds = Counter((cell.probability, cell.type) for cell in train + test)
    in_test = Counter((cell.probability, cell.type) for cell in test)
    assert len(kinds) == 8
    assert all(abs(in_test[kind] - 0.25 * count) < 1 for kind, count in kinds.items())


def test_elpv_splits_differ_by_seed_only():
    cells = [Cell(f"{number:03d}", number % 4 / 3, "mono") for number in range(100)]
    first = split_cells(cells, seed=1)
    assert split_cells(cells[::-1], seed=1)[1] == sorted(first[1], key=lambda c: c.file_name)[::-1]
    assert split_cells(cells, seed=2) != first


def test_elpv_names_its_licence_and_authors(tmp_path):
    info = Elpv(data_dir=tmp_path).info
    assert "CC BY-NC-SA 4.0" in info.redistribution_info.license
    assert "Deitsch" in info.citation
    assert info.supervised_keys == ("image", "label")


def test_elpv_takes_any_seed(tmp_path):
    assert Elpv(data_dir=tmp_path).builder_config.seed == 0
    assert set(Elpv.builder_configs) == {f"seed{seed}" for seed in range(10)}
    assert Elpv(config=ElpvConfig(seed=123), data_dir=tmp_path).builder_config.name == "seed123"


def test_a_missing_elpv_package_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(DataError, match=r"pip install 'resnet-keras\[demo\]'"):
        load_images("tfds:elpv")


# Other datasets


@pytest.fixture
def tfds_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("prepared", [None, "tfrecord", "array_record"])
def test_a_dataset_keeps_its_class_order_and_parts(tfds_home, prepared, capfd):
    if prepared:
        tfds.disable_progress_bar()
        Tiny(data_dir=tfds_home, file_format=prepared).download_and_prepare()
        capfd.readouterr()
    data = load_images("tfds:tiny_pictures", recipe=Recipe(image_size=16, crop=1.0))
    assert data.class_names == ("zebra", "ant")
    assert [len(part) for part in (data.train, data.val, data.test)] == [16, 16, 16]
    pictures, labels = make_arrays(2, size=16, seed=2)
    by_content = {pixels.tobytes(): label for pixels, label in zip(pictures, labels, strict=True)}
    read = data.test.pictures(np.arange(16))
    assert [by_content[pixels.tobytes()] for pixels in read] == data.test.labels.tolist()
    kinds = np.array(["wild", "tame"])[data.test.labels]
    assert data.test.metadata.keys() == {"kind"}
    np.testing.assert_array_equal(data.test.metadata["kind"], kinds)
    assert capfd.readouterr().out == ""
    assert (tfds_home / "tiny_pictures").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_dataset", "could not be prepared"),
        ("elpv/seed99", "could not be prepared"),
        ("tiny_unlabelled", "'image' and 'label'.* has image, mask"),
        ("tiny_test_only", "must have a train split, and has test"),
    ],
)
def test_datasets_that_do_not_fit_are_refused(tfds_home, name, message):
    with pytest.raises(DataError, match=message) as error:
        load_images(f"tfds:{name}")
    assert "\n" not in str(error.value)


def test_a_bad_picture_of_a_dataset_is_named(tfds_home):
    class TinyBroken(Tiny):
        name = "tiny_broken"

        def _generate_examples(self, seed):
            for key, example in super()._generate_examples(seed):
                path = tfds_home / f"{seed}-{key}.png"
                Image.fromarray(example["image"]).save(path)
                if key == 3:
                    path.write_bytes(path.read_bytes()[:200])
                yield key, {**example, "image": path}

    with pytest.raises(DataError, match=r"3 of 48 pictures .*\n  train/\d+ is truncated"):
        load_images("tfds:tiny_broken", image_size=16)
