"""Which phases are cached and where: by the work that it saves and the room that it takes."""

import shutil
from collections import namedtuple

import numpy as np
import pytest

from resnet_keras.builder import build_resnet
from resnet_keras.data import load_images
from resnet_keras.records import Recipe
from resnet_keras.training import Phase
from resnet_keras.training.plan import CacheOptions, plan_phases

SIZE = 64


@pytest.fixture(scope="module")
def model():
    return build_resnet(18, num_classes=2)


def pictures(count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    recipe = Recipe(image_size=SIZE, crop=1.0)
    return load_images(pixels, labels=np.arange(count) % 2, recipe=recipe, test=0)


def plans(model, phases, folder, *, count=40, **options):
    defaults = {"mode": "auto", "views": 2, "bits": 8, "shared": False, "dtype": "float32"}
    chosen = CacheOptions(folder=folder, **defaults | options)
    return plan_phases(model, pictures(count), phases, options=chosen)


@pytest.mark.parametrize(
    ("phases", "views", "homes"),
    [
        ([Phase("head", 10)], 2, ["memory"]),
        ([Phase("head", 1)], 2, [None]),  # each view would be computed for one epoch or none
        ([Phase("head", 2)], 8, [None]),
        ([Phase("stage2", 10)], 2, [None]),  # little of the network is frozen
        ([Phase("all", 10)], 2, [None]),
        ([Phase("head", 2), Phase("stage4", 20)], 2, ["memory", "memory"]),
        ([Phase("head", 5), Phase("all", 5)], 2, ["memory", None]),
    ],
)
def test_what_saves_work_is_cached(model, tmp_path, phases, views, homes):
    assert [plan.cache for plan in plans(model, phases, tmp_path, views=views)] == homes


def test_what_does_not_fit_in_memory_goes_to_disk_and_else_nowhere(model, tmp_path, monkeypatch):
    phases = [Phase("head", 5), Phase("stage4", 20)]
    free = plans(model, phases, tmp_path)
    needed = sum(plan.cache_bytes for plan in free)
    assert [plan.cache for plan in free] == ["memory", "memory"]
    monkeypatch.setenv("RESNET_KERAS_MEMORY", str(needed))
    assert [plan.cache for plan in plans(model, phases, tmp_path)] == ["disk", "disk"]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed))
    # The pooled features alone still fit in memory.
    assert [plan.cache for plan in plans(model, phases, tmp_path)] == ["memory", None]
    monkeypatch.setenv("RESNET_KERAS_MEMORY", "1")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 0))
    assert [plan.cache for plan in plans(model, phases, tmp_path)] == [None, None]


def test_a_shared_cache_is_on_disk(model, tmp_path):
    (plan,) = plans(model, [Phase("head", 10)], tmp_path, shared=True)
    assert plan.cache == "disk"


@pytest.mark.parametrize("mode", ["memory", "disk", None])
def test_what_is_asked_for_is_done(model, tmp_path, mode):
    phases = [Phase("head", 1), Phase("stage2", 1), Phase("all", 1)]
    homes = [plan.cache for plan in plans(model, phases, tmp_path, mode=mode)]
    assert homes == [mode, mode, None]


def test_bytes_follow_the_maps_and_the_bits(model, tmp_path):
    stage4 = [Phase("stage4", 20)]
    sizes = {bits: plans(model, stage4, tmp_path, bits=bits)[0].cache_bytes for bits in (8, 16, 32)}
    values = 4 * 4 * 256  # stage 3 at 64 pixels: 1/16 of the side
    views = 2 * 34 + 6  # two of each of 34 for training, one of each of 6 for validation
    assert sizes[32] == 2 * sizes[16] == 4 * values * views
    assert sizes[8] == (values + 8 * 256) * views


def test_the_estimate_grows_with_the_pictures_and_names_its_parts(model, tmp_path):
    phases = [Phase("head", 5), Phase("stage4", 20)]
    few, many = (plans(model, phases, tmp_path, count=count) for count in (40, 80))
    assert many[1].epoch == pytest.approx(2 * few[1].epoch, rel=0.1)
    assert many[0].extraction == pytest.approx(2 * few[0].extraction, rel=0.1)
    assert few[1].extraction == 0  # the head needed stage 3 on its way
    assert "stage4 trains for 20 epochs from stage3 cached in memory" in str(few[1])
    live = plans(model, phases, tmp_path, mode=None)
    assert live[1].epoch > few[1].epoch
