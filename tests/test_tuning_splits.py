"""The pictures that repeats learn from and are scored by."""

import dataclasses

import numpy as np
import pytest

from resnet_keras import load_images
from resnet_keras.data import Augmentation
from resnet_keras.training.display import Display
from resnet_keras.tuning import heads
from resnet_keras.tuning.features import Features
from resnet_keras.tuning.head_search import Pictures, repeated
from resnet_keras.tuning.heads import Task
from resnet_keras.tuning.space import Head
from resnet_keras.tuning.splits import split_again
from resnet_keras.tuning.trials import before_failure
from tests.pictures import make_tree


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    photos = make_tree(tmp_path_factory.mktemp("photos"), count=20)
    return load_images(photos, image_size=32, validation=0.2, test=0.1)


def names(part):
    return set(part.names)


def test_another_split_has_as_many_of_each_class_and_leaves_the_test_part(data):
    again = split_again(data, seed=1)
    assert names(again.train) | names(again.val) == names(data.train) | names(data.val)
    assert not names(again.train) & names(again.val)
    assert names(again.val) != names(data.val) != names(split_again(data, seed=2).val)
    assert names(split_again(data, seed=1).val) == names(again.val)
    np.testing.assert_array_equal(np.bincount(again.val.labels), np.bincount(data.val.labels))
    assert again.test is data.test


def test_a_picture_keeps_its_pixels_and_its_class(data):
    again = split_again(data, seed=1)
    for part in (again.train, again.val):
        for number, name in enumerate(part.names):
            before = data.train if name in names(data.train) else data.val
            place = before.names.index(name)
            assert part.labels[number] == before.labels[place]
            np.testing.assert_array_equal(part.pictures([number]), before.pictures([place]))


def test_a_validation_part_of_ones_own_stays(data):
    own = dataclasses.replace(data, drawn=("test",))
    assert split_again(own, seed=1) is own


def test_repeats_of_networks_have_the_splits_of_those_of_heads(data, tmp_path):
    pictures = Pictures(
        data, {}, Augmentation(), views=1, precision="float32", folder=tmp_path, seed=7,
        display=Display(quiet=True),
    )  # fmt: skip
    task = pictures.task([], epochs=1, objective="accuracy")
    assert isinstance(task, Task)
    every = np.array([*data.train.names, *data.val.names])
    for number in (1, 2):
        of_heads, networks = pictures.again(task, number), split_again(data, seed=7 + number)
        assert set(every[of_heads.val]) == names(networks.val)
        assert set(every[of_heads.train]) == names(networks.train)


def test_repeats_that_fail_are_told_with_their_reason(data, tmp_path, monkeypatch, capsys):
    images = len(data.train) + len(data.val)
    features = Features({4: 8}, None, np.arange(images)[None], tmp_path)
    pictures = Pictures(
        data, {}, Augmentation(), views=1, precision="float32", folder=tmp_path, seed=7,
        display=Display(), _features={"net": features},
    )  # fmt: skip
    head = Head({"backbone": "net", "stage": 4, "pooling": "avg", "views": 1, "hidden_layers": 0})
    monkeypatch.setattr(heads, "available_memory", lambda: 0)
    found = repeated(pictures, [head, head], repeats=3, epochs=1, objective="accuracy")
    assert found == [(), ()]
    said = capsys.readouterr().err
    assert "6 of 6 repeats failed: The memory ran out: it needs more than is free" in said


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.6], (0.5, 0.6)),
        ([0.5, None, 0.7], (0.5,)),
        ([0.5, float("nan"), 0.7], (0.5,)),
        ([None], ()),
    ],
)
def test_repeats_behind_one_that_failed_do_not_count(scores, expected):
    assert before_failure(iter(scores)) == expected
