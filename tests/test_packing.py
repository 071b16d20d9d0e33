"""How activations are kept: what 32, 16 and 8 bits lose, and the layer that unpacks them."""

import keras
import numpy as np
import pytest

from resnet_keras.layers import functional
from resnet_keras.stages import split_at
from resnet_keras.training.cache import activation_bytes
from resnet_keras.training.packing import Packing, Unpack
from tests.cached_networks import SIZE, build, compute, make_images


@pytest.fixture(scope="module")
def images():
    return make_images()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.mark.parametrize("variant", ["v1.5", "v2"])
def test_eight_bits_are_half_a_step_of_their_picture_and_channel_away(images, variant):
    model = build(variant=variant)
    exact = compute(model, images, "stage1", bits=32)
    prefix, _ = split_at(model, "stage1")
    features = prefix.predict(images.pictures(np.arange(len(images))), verbose=0)
    np.testing.assert_allclose(exact.array()[exact.places][0], features, atol=1e-4)
    kept = compute(model, images, "stage1", bits=8)
    kept = kept.array()[kept.places][0]
    exact = exact.array()[exact.places][0]
    reach = exact.max((1, 2), keepdims=True) - exact.min((1, 2), keepdims=True)
    # Half a step, and the last bits of float32 in `low + step * code`.
    bound = reach / 255 / 2 * 1.0001 + 1e-6 * np.abs(exact).max()
    assert (np.abs(kept - exact) <= bound).all()
    assert (exact.min() < 0) == (variant == "v2")
    if variant == "v1.5":
        assert (exact == 0).mean() > 0.1
        assert (kept[exact == 0] == 0).all()


def test_sixteen_bits_keep_bfloat16_as_it_is_and_round_float32(images, model):
    half = {"dtype": "bfloat16", "boundary": "stage3"}
    exact, kept = (compute(model, images, bits=bits, **half) for bits in (32, 16))
    assert kept.packing.row_bytes * 2 == exact.packing.row_bytes
    assert kept.exact
    np.testing.assert_array_equal(kept.array()[kept.places], exact.array()[exact.places])
    exact, kept = (compute(model, images, "stage3", bits=bits) for bits in (32, 16))
    assert not kept.exact
    np.testing.assert_array_equal(
        kept.array()[kept.places], exact.array()[exact.places].astype(np.float16)
    )


def test_values_beyond_float16_become_its_largest_and_no_number_stays_none():
    values = np.array([[[[1e6], [-1e6], [np.nan], [3.0]]]], np.float32)
    packing = Packing.choose((1, 4, 1), bits=16, dtype="float32")
    found = np.asarray(packing.unpack(packing.pack(values)))
    np.testing.assert_array_equal(found.ravel(), [65504, -65504, np.nan, 3])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_channel_that_is_no_longer_finite_is_not_hidden_by_codes(broken):
    values = np.ones((1, 2, 2, 2), np.float32)
    values[0, 0, 0, 0] = broken
    packing = Packing.choose((2, 2, 2), bits=8, dtype="float32")
    found = np.asarray(packing.unpack(packing.pack(values)))
    assert not np.isfinite(found[..., 0]).any()
    np.testing.assert_array_equal(found[..., 1], 1)


@pytest.mark.parametrize("values", [0.0, 7.25, -3.5, 1e30])
def test_a_constant_channel_comes_back_as_it_was(values):
    packing = Packing.choose((3, 3, 1), bits=8, dtype="float32")
    values = np.full((2, 3, 3, 1), values, np.float32)
    np.testing.assert_array_equal(np.asarray(packing.unpack(packing.pack(values))), values)


def test_pooled_features_have_all_their_bits(images, model):
    pool = keras.Model(model.input, model.get_layer("head_pool").output)
    features = pool.predict(images.pictures(np.arange(len(images))), verbose=0)
    kept = compute(model, images, "pool", bits=8)
    assert kept.packing.code == "float32"
    assert kept.exact
    assert kept.array()[kept.places].shape == (1, *features.shape)
    np.testing.assert_allclose(kept.array()[kept.places][0], features, atol=1e-5)


def test_other_numbers_of_bits_are_refused(images, model):
    with pytest.raises(ValueError, match=r"`bits` must be one of \[8, 16, 32\]. Received: bits=4"):
        compute(model, images, "stage1", bits=4)


@pytest.mark.parametrize(("bits", "dtype"), [(8, "float32"), (16, "bfloat16"), (32, "float32")])
def test_the_rows_are_unpacked_inside_the_network(images, model, bits, dtype, tmp_path):
    kept = compute(model, images, "stage2", bits=bits, dtype=dtype)
    rows, features = kept.inputs()
    assert rows.shape == (None, kept.packing.row_bytes)
    _, rest = split_at(model, "stage2")
    trainer = functional(rows, [features, rest(features)])
    trainer.save(tmp_path / "trainer.keras")
    batch = kept.batch(np.arange(4))
    for network in (trainer, keras.models.load_model(tmp_path / "trainer.keras")):
        found, logits = network.predict(batch, verbose=0)
        np.testing.assert_array_equal(found, kept.array()[kept.places][0, :4])
        expected = rest.predict(kept.array()[kept.places][0, :4], verbose=0)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    half = Unpack(kept.packing, dtype="bfloat16")(batch)
    assert half.dtype == "bfloat16"
    assert half.shape == (4, *kept.packing.shape)


def test_the_planned_size_is_that_of_the_rows(images, model):
    for boundary in ("stem", "stage2", "pool"):
        for bits in (8, 16, 32):
            kept = compute(model, images.subset([0]), boundary, bits=bits)
            assert activation_bytes(model, boundary, SIZE, bits=bits) == kept.batch([0]).nbytes
