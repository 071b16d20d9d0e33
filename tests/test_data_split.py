import shutil

import numpy as np
import pytest

from resnet_keras.data import load_images
from resnet_keras.data.split import apportion, class_counts, split_off
from resnet_keras.errors import DataError
from tests.pictures import make_split_tree, make_tree


def test_shares_are_apportioned_by_largest_remainders():
    assert apportion([588, 920, 117, 178, 56, 50, 313, 402], 656) == [
        147, 230, 29, 45, 14, 13, 78, 100,
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", [[3, 3], [3, 500], [20, 21, 22], [4, 4, 9]])
@pytest.mark.parametrize("shares", [[0.15, 0.15], [0.001, 0.4], [0.45, 0.45]])
def test_every_class_gets_a_picture_in_every_part(sizes, shares):
    counts = class_counts(sizes, shares, [str(size) for size in sizes])
    taken = np.array(list(counts.values()))
    assert taken.min() >= 1
    assert (np.array(sizes) - taken.sum(1)).min() >= 1


def test_large_classes_keep_the_shares():
    counts = class_counts([100, 300], [0.15, 0.25], ["a", "b"])
    assert counts == {0: [15, 25], 1: [45, 75]}


def test_a_class_with_too_few_pictures_is_named(tmp_path):
    make_tree(tmp_path, ("common", "usual"), count=8)
    make_tree(tmp_path, ("rare",), count=2)
    with pytest.raises(DataError, match=r"each of the 3 parts, but 'rare' has 2;.*`test=0`"):
        load_images(tmp_path)
    assert load_images(tmp_path, test=0, image_size=8).test is None


def test_a_split_depends_on_names_and_seed_but_not_on_the_order():
    names = [f"{number:03d}" for number in range(60)]
    strata = np.repeat([0, 1, 2], 20)
    counts = {label: [3, 5] for label in range(3)}
    first = split_off(names, strata, counts, seed=1)
    order = np.random.default_rng(0).permutation(60)
    again = split_off([names[index] for index in order], strata[order], counts, seed=1)
    np.testing.assert_array_equal(again, first[order])
    assert np.bincount(first).tolist() == [36, 9, 15]
    assert not np.array_equal(first, split_off(names, strata, counts, seed=2))


def test_parts_that_exist_are_kept_and_the_others_split_off(tmp_path):
    make_split_tree(tmp_path, counts=(8, 1, 2))
    shutil.rmtree(tmp_path / "val")
    data = load_images(tmp_path, image_size=8, validation=0.25)
    assert (len(data.train), len(data.val), len(data.test)) == (18, 6, 6)
    assert all(name.startswith("test/") for name in data.test.names)
    assert not set(data.train.names) & set(data.val.names)
