"""Freezing to the bit, cutting at a boundary, and the table of stages."""

import keras
import numpy as np
import pytest

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.builder import build_resnet
from resnet_keras.stage_table import stage_summary
from resnet_keras.stages import (
    BOUNDARIES,
    PARTS,
    feature_pyramid,
    freeze,
    part_of,
    split_at,
    unfreeze,
)

CLASSES = 3


@pytest.fixture
def model():
    # Gammas of 0 would stop the gradients of their branches in the first step.
    keras.utils.set_random_seed(0)
    return build_resnet(18, num_classes=CLASSES, width=0.125, zero_init_residual=False)


def snapshot(model):
    return {
        (layer.name, weight.name): np.copy(weight)
        for layer in model.layers
        for weight in layer.weights
    }


def fit(model):
    rng = np.random.default_rng(0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = rng.integers(0, 256, (8, 32, 32, 3)), rng.integers(0, CLASSES, 8)
    model.fit(images, labels, batch_size=4, epochs=2, verbose=0)


def moved(model, before):
    after = snapshot(model)
    return {name for name, value in before.items() if not np.array_equal(value, after[name])}


@pytest.mark.parametrize("through", BOUNDARIES)
@pytest.mark.parametrize("batch_norm", ["frozen", "affine", "train"])
def test_what_is_frozen_stays_to_the_bit_and_everything_else_moves(model, through, batch_norm):
    freeze(model, through=through)
    start = "head" if through == "pool" else PARTS[PARTS.index(through) + 1]
    unfreeze(model, start=start, batch_norm=batch_norm)
    before = snapshot(model)
    fit(model)
    trained = PARTS[PARTS.index(start) :]
    still = {"frozen": {"gamma", "beta"}, "affine": set(), "train": set()}[batch_norm]
    if batch_norm != "train":
        still |= {"moving_mean", "moving_variance"}
    parts = {layer.name: part_of(layer) for layer in model.layers}
    expected = {
        (layer, weight)
        for layer, weight in before
        if parts[layer] in trained and weight not in still
    }
    assert moved(model, before) == expected


def test_batch_norm_inside_the_frozen_part_can_train_alone(model):
    freeze(model, through="stage4", batch_norm="affine")
    before = snapshot(model)
    fit(model)
    assert {weight for layer, weight in moved(model, before) if layer != "logits"} == {
        "gamma",
        "beta",
    }


def test_synchronized_statistics_are_those_of_train_on_one_device():
    found = []
    for batch_norm in ("train", "synchronized"):
        keras.utils.set_random_seed(0)
        model = build_resnet(18, num_classes=CLASSES, width=0.125, zero_init_residual=False)
        unfreeze(model, start="stage3", batch_norm=batch_norm)
        pictures = np.random.default_rng(0).uniform(0, 255, (16, 64, 64, 3))
        logits = model(pictures.astype(np.float32), training=True)
        # The moving statistics, which the call has moved, are among the weights.
        found.append(snapshot(model) | {"logits": np.array(logits)})
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, atol=1e-4, err_msg=str(name))


def test_only_the_layers_that_train_synchronized_are_synchronized(model):
    def synchronized():
        return {
            part_of(layer)
            for layer in model.layers
            if isinstance(layer, BatchNorm) and layer.synchronized
        }

    unfreeze(model, start="stage3", batch_norm="synchronized")
    assert synchronized() == {"stage3", "stage4"}
    freeze(model, through="stage3")
    assert synchronized() == {"stage4"}
    for batch_norm in ("train", "affine", "frozen"):
        unfreeze(model, start="stage4", batch_norm="synchronized")
        unfreeze(model, start="stage4", batch_norm=batch_norm)
        assert not synchronized()


def test_a_compiled_model_asks_to_be_compiled_again(model):
    fit(model)
    freeze(model)
    with pytest.raises(ValueError, match="compile"):
        model.fit(np.zeros((1, 32, 32, 3)), np.zeros(1), verbose=0)


def test_unfreezing_a_model_that_was_frozen_as_a_whole_leaves_the_rest_frozen(model):
    model.trainable = False
    unfreeze(model, start="head")
    assert [weight.path for weight in model.trainable_weights] == ["logits/kernel", "logits/bias"]


def test_layers_behind_the_boundary_are_left_alone(model):
    unfreeze(model, start="all", batch_norm="affine")
    freeze(model, through="stage2")
    layer = model.get_layer("stage3_block1_1_bn")
    assert isinstance(layer, BatchNorm)
    assert layer.trainable
    assert layer.fixed_statistics


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_two_parts_of_a_cut_make_up_the_model(model, boundary):
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 32, 3)).astype("float32")
    first, second = split_at(model, boundary)
    np.testing.assert_array_equal(second(first(images)), model(images))
    shared = {id(weight) for part in (first, second) for weight in part.weights}
    assert shared == {id(weight) for weight in model.weights}
    assert len(first.weights) + len(second.weights) == len(model.weights)


def test_a_features_model_cannot_be_cut_behind_its_end():
    model = build_resnet(18, num_classes=None, width=0.125)
    with pytest.raises(ValueError, match="boundary='stage4', which is the output"):
        split_at(model, "stage4")
    with pytest.raises(ValueError, match=r"boundary='pool'.*has no such layer"):
        split_at(model, "pool")


# The sizes of the maps of table 1 of He et al. 2015 and parameters of torchvision's resnet50.
def test_the_table_shows_strides_shapes_parameters_and_state():
    model = build_resnet(50)
    freeze(model, through="stage3")
    rows = stage_summary(model, 224)
    assert [(row.stage, row.stride, row.shape) for row in rows] == [
        ("stem", 4, (56, 56, 64)),
        ("stage1", 4, (56, 56, 256)),
        ("stage2", 8, (28, 28, 512)),
        ("stage3", 16, (14, 14, 1024)),
        ("stage4", 32, (7, 7, 2048)),
        ("head", 0, (1000,)),
    ]
    assert [row.state for row in rows] == ["frozen"] * 4 + ["trainable"] * 2
    assert sum(row.parameters for row in rows) == 25_610_152
    text = str(rows)
    assert "25,610,152" in text
    assert "14 x 14 x 1024" in text


def test_a_part_that_trains_in_part_says_so(model):
    unfreeze(model, start="all", batch_norm="frozen")
    assert stage_summary(model, 32)[1].state == "part"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: freeze(model, through="stage5"), "`through` must be one of .*'stage5'"),
        (lambda model: unfreeze(model, start="top"), "`start` must be one of .*'top'"),
        (lambda model: unfreeze(model, batch_norm="off"), "`batch_norm` must be one of .*'off'"),
        (lambda model: split_at(model, "block3"), "`boundary` must be one of .*'block3'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_choices(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


@pytest.mark.parametrize(("depth", "variant"), [(18, "v1.5"), (50, "v1"), (50, "v2"), (34, "d")])
def test_a_feature_pyramid_has_the_outputs_of_the_stages(depth, variant):
    model = build_resnet(depth, variant=variant, width=0.25, num_classes=3)
    pyramid = feature_pyramid(model)
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 96, 160, 3))
    levels = pyramid(pixels)
    expansion = 1 if depth < 50 else 4
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "C2": (1, 24, 40, 16 * expansion),
        "C3": (1, 12, 20, 32 * expansion),
        "C4": (1, 6, 10, 64 * expansion),
        "C5": (1, 3, 5, 128 * expansion),
    }
    np.testing.assert_array_equal(levels["C5"], split_at(model, "stage4")[0](pixels))


def test_a_feature_pyramid_of_some_stages_with_dilation():
    model = build_resnet(18, width=0.25, num_classes=None, output_stride=8)
    shapes = feature_pyramid(model, stages=(2, 4)).compute_output_shape((1, 64, 64, 3))
    assert shapes == {"C3": (1, 8, 8, 32), "C5": (1, 8, 8, 128)}


@pytest.mark.parametrize("stages", [(), (0, 1), (4, 3), (3, 3), (5,)])
def test_stages_that_are_not_there_have_no_pyramid(stages):
    with pytest.raises(ValueError, match="`stages` must hold numbers of stages"):
        feature_pyramid(build_resnet(18, width=0.125), stages)
