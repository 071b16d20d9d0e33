"""The boundary cache: whose row is whose, and what it is shared between."""

import dataclasses

import numpy as np
import pytest

from resnet_keras.data import Augment, Augmentation
from resnet_keras.distribution.sharing import Sharing
from resnet_keras.layers import functional
from resnet_keras.stages import boundary_layer
from resnet_keras.training.cache import Views, cache_key
from resnet_keras.training.feed import cached_feed, picture_feed
from tests.cached_networks import (
    SIZE,
    VARIED,
    build,
    compute,
    counting,
    every,
    images_of,
    make_images,
)
from tests.pictures import make_arrays


@pytest.fixture(scope="module")
def images():
    return make_images()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("resnet_keras.training.rows.SHARD_ROWS", 32)


@pytest.mark.parametrize("bits", [8, 32])
def test_memory_and_disk_hold_equal_bits(images, model, tmp_path, small_shards, bits):
    memory = compute(model, images, "stage1", views=VARIED, bits=bits)
    disk = compute(model, images, "stage1", views=VARIED, bits=bits, home=tmp_path)
    assert len(list(tmp_path.rglob("*.rows"))) > 5
    np.testing.assert_array_equal(every(memory), every(disk))
    pictures, views = np.array([7, 3, 3, 59]), np.array([4, 0, 0, 1])
    np.testing.assert_array_equal(memory.batch(pictures, views), disk.batch(pictures, views))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_the_other_pictures(images, dtype):
    # Alone in a batch of one, a picture gets other bits from this network.
    model = build(depth=18, stem="imagenet", width=0.125)
    whole = every(compute(model, images, "stage4", bits=32, dtype=dtype))[0]
    for chosen in ([17], [40, 3], np.random.default_rng(0).permutation(45)):
        alone = compute(model, images.subset(chosen), "stage4", bits=32, dtype=dtype)
        np.testing.assert_array_equal(every(alone)[0], whole[chosen])


def test_flips_are_the_activations_of_flipped_pictures(images, model):
    views = Views(4, Augmentation(flip="both"), seed=0)
    found = every(compute(model, images, "stage3", bits=32, views=views))
    pictures = images.pictures(np.arange(len(images)))
    flipped = [pictures, pictures[:, :, ::-1], pictures[:, ::-1], pictures[:, ::-1, ::-1]]
    for kept, version in zip(found, flipped, strict=True):
        other = images_of(np.ascontiguousarray(version), images.labels)
        np.testing.assert_array_equal(kept, every(compute(model, other, "stage3", bits=32))[0])


def test_further_views_are_drawn_by_seed_view_and_index(images, model):
    found = every(compute(model, images, "stage3", bits=32, views=VARIED))
    pictures = images.pictures(np.arange(len(images))).astype(np.float32)
    still = dataclasses.replace(VARIED.augmentation, flip="none")
    frozen = functional(model.input, boundary_layer(model, "stage3").output)
    for view in (2, 3, 4):
        flipped = pictures[:, :, ::-1] if view % 2 else pictures
        varied = Augment(still)([flipped, still.draws((VARIED.seed, view), len(images))])
        np.testing.assert_allclose(found[view], frozen(varied, training=False), atol=1e-3)


def test_runs_with_other_splits_seeds_and_heads_share_what_is_the_same(tmp_path, model):
    pictures, labels = make_arrays(3, count=20, size=SIZE)
    flips = Views(2, Augmentation(flip="horizontal"), seed=0)
    first = images_of(pictures, labels, validation=0.5, seed=0)
    compute(model, first, "stage2", views=flips, home=tmp_path)
    renamed = np.array(["x", "y", "z"])[labels]
    second, reads = counting(images_of(pictures, renamed, validation=0.5, seed=1))
    other = build(num_classes=5, head=(7,), pooling="max")
    seen = []
    both = Views(3, Augmentation(flip="both"), seed=9)
    kept = compute(other, second, "stage2", views=both, home=tmp_path, on_batch=seen.append)
    known = set(first.digests)
    new = sum(digest not in known for digest in second.digests)
    assert 0 < new < len(second)
    # The vertical flips are all new.
    assert reads.count == 2 * new + len(second)
    assert seen[0] == 2 * (len(second) - new)
    assert sum(seen) == 3 * len(second)
    np.testing.assert_array_equal(every(kept), every(compute(other, second, "stage2", views=both)))
    again, reads = counting(second)
    compute(other, again, "stage2", views=both, home=tmp_path)
    assert reads.count == 0


def test_only_what_the_activations_depend_on_is_in_the_key(images, model):
    def key(model=model, boundary="stage2", images=images, bits=8, dtype="float32"):
        return cache_key(model, images, boundary, bits=bits, dtype=dtype)

    others = [
        key(boundary="stage3"), key(bits=16), key(bits=32), key(dtype="bfloat16"),
        key(build(variant="v1")), key(build(output_stride=8)), key(build(variant="v2")),
    ]  # fmt: skip
    changed = build()
    changed.get_layer("stage2_block1_1_conv").kernel.assign_add(
        np.full(changed.get_layer("stage2_block1_1_conv").kernel.shape, 1e-6)
    )
    others.append(key(changed))
    recipe = dataclasses.replace(images.recipe, image_size=24)
    others.append(key(images=dataclasses.replace(images, recipe=recipe)))
    assert len({key(), *others}) == len(others) + 1
    same = build()
    same.get_layer("stage3_block1_1_conv").kernel.assign_add(
        np.ones(same.get_layer("stage3_block1_1_conv").kernel.shape)
    )
    assert key() == key(same) == key(build(num_classes=9)) == key(images=images.subset([1]))
    assert key(build(pooling="max")) == key()
    assert key(build(pooling="max"), "pool") != key(boundary="pool")


def test_a_picture_that_occurs_twice_is_computed_once(model, tmp_path):
    pictures, labels = make_arrays(3, count=8, size=SIZE)
    twice, reads = counting(images_of(np.tile(pictures, (2, 1, 1, 1)), np.tile(labels, 2)))
    seen = []
    kept = compute(model, twice, "stage2", home=tmp_path, on_batch=seen.append)
    assert reads.count == 24
    assert seen == [24, 24]
    assert len(np.unique(kept.places)) == 24
    np.testing.assert_array_equal(every(kept)[0, :24], every(kept)[0, 24:])


def test_pictures_of_other_processes_are_not_computed(images, model):
    reading, reads = counting(images)
    own = np.arange(len(images)) % 3 == 1
    part = compute(model, reading, "stage1", views=VARIED, bits=32, own=own)
    assert reads.count == VARIED.count * own.sum()
    assert (part.places[:, ~own] == -1).all()
    whole = every(compute(model, images, "stage1", views=VARIED, bits=32))
    np.testing.assert_array_equal(part.array()[part.places[:, own]], whole[:, own])


def test_activations_go_on_from_an_earlier_boundary(images, model, tmp_path):
    reading, reads = counting(images)
    direct = compute(model, images, "stage3", views=VARIED)
    for bits in (32, 8):
        source = compute(model, images, "stage2", views=VARIED, bits=bits)
        found = compute(model, reading, "stage3", views=VARIED, source=source, home=tmp_path)
        assert (found.key == direct.key) == (bits == 32)
        if bits == 32:
            np.testing.assert_array_equal(every(found), every(direct))
        else:
            np.testing.assert_allclose(every(found), every(direct), atol=0.2)
    assert reads.count == 0


def test_each_picture_goes_through_all_its_views_in_as_many_epochs(images, model):
    kept = compute(model, images, "stage2", views=VARIED, bits=32)
    feed = cached_feed(images, kept, sharing=Sharing(len(images), 7), seed=(0, 0))
    seen = [feed.batch(epoch, step).inputs[0] for epoch in range(5) for step in range(feed.steps)]
    rows = sorted(row.tobytes() for row in np.concatenate(seen))
    everything = every(kept).reshape(-1, *kept.packing.shape)
    assert rows == sorted(row.tobytes() for row in everything)


@pytest.mark.parametrize("kind", ["pictures", "cached"])
def test_dropping_the_remainder_leaves_steps_of_one_shape(images, model, kind):
    def make(**options):
        sharing = Sharing(len(images), 7, **options)
        if kind == "pictures":
            return picture_feed(images, VARIED.augmentation, sharing=sharing, seed=(0,))
        return cached_feed(images, compute(model, images, "stage2"), sharing=sharing, seed=(0,))

    full, even = make(), make(drop_remainder=True)
    assert (full.steps, even.steps) == (9, 8)
    assert (full.sharing.count(7, 9), even.sharing.count(0, 8)) == (11, 56)
    for step in range(8):
        found, expected = even.batch(2, step), full.batch(2, step)
        for values, others in zip(found.inputs, expected.inputs, strict=True):
            np.testing.assert_array_equal(values, others)
        np.testing.assert_array_equal(found.targets, expected.targets)
    spec = even.dataset().element_spec
    assert {value.shape[0] for value in (*spec.inputs, spec.targets, spec.weights)} == {7}
    assert full.dataset().element_spec.inputs[0].shape[0] is None
    assert [len(batch.targets) for batch in even.dataset(5)] == [7, 7, 7]
    assert [len(batch.targets) for batch in full.dataset(7)] == [7, 4]


def test_an_epoch_without_a_whole_batch_is_refused():
    with pytest.raises(ValueError, match=r"as many pictures as a batch has\. Received: 6 pict"):
        Sharing(6, 7, drop_remainder=True)
    assert Sharing(7, 7, drop_remainder=True).steps == 1
