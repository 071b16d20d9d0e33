"""The graphs: published sizes, parity with an independent implementation, names."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from resnet_keras.builder import build_network, build_resnet
from resnet_keras.layers import record_of, set_record
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.stage_table import stage_summary
from tests.goldens.renew import PINNED

GOLDENS = Path(__file__).parent / "goldens"


def trainable_parameters(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


# torchvision's documentation of resnet18 to resnet152 (num_params).
@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_trainable_parameters_are_the_published_ones(depth, parameters):
    assert trainable_parameters(build_resnet(depth)) == parameters


# fvcore's counts for torchvision (v1.5) and keras.applications (v1) at 224 pixels.
@pytest.mark.parametrize(
    ("depth", "variant", "gmacs"),
    [(18, "v1.5", 1.814), (34, "v1.5", 3.664), (50, "v1.5", 4.089), (50, "v1", 3.858)],
)
def test_multiply_adds_are_the_published_ones(depth, variant, gmacs):
    rows = stage_summary(build_resnet(depth, variant=variant), 224)
    assert sum(row.macs for row in rows) / 1e9 == pytest.approx(gmacs, abs=6e-4)


def keras_hub_names(depth):
    """Yields (their layer, our layer) for every convolution and batch norm."""
    yield "conv1", "stem"
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            theirs, ours = f"stack{stage - 1}_block{block}", f"stage{stage}_block{block + 1}"
            for position in (1, 2) if depth == 18 else (1, 2, 3):
                yield f"{theirs}_{position}", f"{ours}_{position}"
            if block == 0 and (depth == 50 or stage > 1):
                yield f"{theirs}_0", f"{ours}_shortcut"


@pytest.fixture(scope="module", params=[18, 50])
def transplanted(request):
    """Returns a KerasHub backbone with random weights and our network with the same ones."""
    import keras_hub

    depth = request.param
    theirs = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks={18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}[depth],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block" if depth == 18 else "bottleneck_block",
    )
    # Mean 0 and deviation 1 make the preprocessing the identity, which KerasHub's net lacks.
    recipe = Recipe(mean=(0.0,) * 3, std=(1.0,) * 3)
    ours = build_network(Record(ResNetSpec(depth), recipe), num_classes=None)
    rng = np.random.default_rng(depth)
    moved = 0
    for their_name, our_name in keras_hub_names(depth):
        for kind in ("conv", "bn"):
            source, target = (
                theirs.get_layer(f"{their_name}_{kind}"),
                ours.get_layer(f"{our_name}_{kind}"),
            )
            values = [rng.uniform(0.5, 1.5, weight.shape) for weight in source.weights]
            if kind == "conv":
                # Centred and of unit gain, so that activations neither vanish nor explode.
                fan_in = np.prod(source.kernel.shape[:3])
                values = [rng.normal(0, fan_in**-0.5, weight.shape) for weight in source.weights]
            source.set_weights(values)
            target.set_weights(values)
            moved += len(values)
    assert moved == len(ours.weights) == len(theirs.weights)
    return theirs, ours


# At odd sizes wrong (bottom and right) padding would go unnoticed.
@pytest.mark.parametrize("size", [224, 64])
def test_features_equal_those_of_keras_hub(transplanted, size):
    theirs, ours = transplanted
    images = np.random.default_rng(size).normal(0, 1, (2, size, size, 3)).astype("float32")
    expected = theirs.predict(images, verbose=0)
    np.testing.assert_allclose(
        ours.predict(images, verbose=0), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize(
    ("depth", "shape", "expected"),
    [
        (18, (None, None, 3), (None, None, None, 64)),
        (18, (64, 96, 3), (None, 2, 3, 64)),
        (18, (33, 33, 1), (None, 2, 2, 64)),
        (50, (64, 64, 5), (None, 2, 2, 256)),
    ],
)
def test_features_have_a_32nd_of_any_size(depth, shape, expected):
    model = build_resnet(depth, num_classes=None, input_shape=shape, width=0.125)
    assert model.output.shape == expected


def test_the_graph_is_flat_and_functional():
    model = build_resnet(18, width=0.125)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    assert isinstance(model, keras.Model)
    assert model.get_layer("stage3_block2_out").output.shape == (None, None, None, 32)


@pytest.mark.parametrize("name", PINNED)
def test_names_and_shapes_of_weights_are_the_golden_ones(name):
    """A new name breaks saved weights; `python -m tests.goldens.renew` accepts the new ones."""
    model = build_resnet(**PINNED[name])
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    assert list(golden) == [layer.name for layer in model.layers]
    found = {
        layer.name: {weight.name: list(weight.shape) for weight in layer.weights}
        for layer in model.layers
    }
    assert golden == found


def test_the_stride_of_v1_is_on_the_first_convolution_and_of_v15_on_the_second():
    strides = {
        variant: [
            build_resnet(50, variant=variant, width=0.125)
            .get_layer(f"stage2_block1_{position}_conv")
            .strides[0]
            for position in (1, 2, 3)
        ]
        for variant in ("v1", "v1.5")
    }
    assert strides == {"v1": [2, 1, 1], "v1.5": [1, 2, 1]}


def test_every_block_starts_as_the_identity():
    model = build_resnet(18, width=0.125, num_classes=None)
    stage = keras.Model(
        model.get_layer("stem_pool").output, model.get_layer("stage1_block2_out").output
    )
    features = np.random.default_rng(0).random((1, 8, 8, 64), "float32")
    projected = keras.Model(
        model.get_layer("stem_pool").output, model.get_layer("stage1_block1_out").output
    )
    np.testing.assert_array_equal(stage(features), projected(features))
    assert not np.any(model.get_layer("stage1_block2_2_bn").gamma)


def test_kernels_start_with_the_variance_of_he():
    kernel = np.asarray(build_resnet(18).get_layer("stage3_block2_1_conv").kernel)
    # fan-out 3 * 3 * 256; 589,824 draws put the sample deviation within 1 %.
    assert kernel.std() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


def test_pixels_are_normalised_inside_the_graph():
    model = build_resnet(18, width=0.125)
    layer = keras.Model(model.input, model.get_layer("preprocess").output)
    mean, std = np.array(record_of(model).recipe.mean), np.array(record_of(model).recipe.std)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3))
    expected = (pixels - mean) / std
    np.testing.assert_allclose(layer.predict(pixels, verbose=0), expected, rtol=1e-4, atol=1e-5)


def test_a_new_record_changes_what_predict_returns():
    model = build_resnet(18, width=0.125, num_classes=3)
    pixels = np.full((1, 32, 32, 3), 128.0)
    before = model.predict(pixels, verbose=0)
    set_record(model, Record(record_of(model).spec, Recipe(mean=(0.0,) * 3, std=(1.0,) * 3)))
    assert not np.allclose(before, model.predict(pixels, verbose=0))


def test_the_record_survives_saving(tmp_path):
    record = Record(ResNetSpec(18, width=0.125), Recipe(64, 0.9), ("a", "b"), "x", "y", "MIT")
    model = build_network(record, num_classes=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert record_of(loaded) == record
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3))
    np.testing.assert_array_equal(
        loaded.predict(pixels, verbose=0), model.predict(pixels, verbose=0)
    )


def test_keras_loads_a_saved_model_where_the_package_is_only_imported(tmp_path):
    path = tmp_path / "model.keras"
    build_resnet(18, width=0.125, num_classes=3).save(path)
    program = (
        f"import keras, resnet_keras; print(keras.models.load_model({str(path)!r}).output_shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "(None, 3)\n", done.stderr


def test_logits_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_resnet(18, width=0.125, num_classes=3)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("stage4_block2_out").output.dtype == "bfloat16"
    assert model.output.dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"depth": 51},
            r"`depth` must be one of \[18, 34, 50, 101, 152, 200\]. Received: depth=51",
        ),
        ({"variant": "v3"}, "`variant` must be one of .* Received: variant='v3'"),
        ({"width": 0}, "`width` must lie in .* Received: width=0"),
        ({"num_classes": 0}, "`num_classes` must be a positive integer or None. Received: 0"),
        ({"num_classes": True}, "`num_classes` must be a positive integer or None. Received: True"),
        ({"input_shape": (32, 32)}, "`input_shape` must be .* Received: input_shape=\\(32, 32\\)"),
        ({"dropout": 1.0}, "`dropout` must lie in .* Received: dropout=1.0"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_resnet(**arguments)
