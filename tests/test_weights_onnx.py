"""Every form of ONNX export computes what ONNX Runtime computes, or a sentence says why not."""

import logging
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from resnet_keras.architectures import DEPTHS
from resnet_keras.builder import build_resnet
from resnet_keras.errors import WeightsError
from resnet_keras.records import Recipe
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import Weights, read_onnx
from tests.onnx_networks import Export

# Even, so that padding at the bottom and right only differs from padding on all sides.
SIZE = 64
# The sums of some fifty layers in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
IDENTITY = Recipe(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (picture,) = session.get_inputs()
    (result,) = session.run(None, {picture.name: images.astype(np.float32)})
    return result


def run_keras(weights: Weights, images: np.ndarray) -> np.ndarray:
    model = build_resnet(weights=weights)
    return keras.ops.convert_to_numpy(model(images, training=False))


def pictures(layout: str = "NHWC", size: int = SIZE) -> np.ndarray:
    images = np.random.default_rng(7).normal(size=(2, size, size, 3)).astype(np.float32)
    return images.transpose(0, 3, 1, 2) if layout == "NCHW" else images


def assert_same_network(path: Path, layout: str = "NCHW") -> ResNetSpec:
    weights = read_onnx(path, recipe=IDENTITY)
    expected = run_onnx(path, pictures(layout))
    if expected.ndim == 4 and layout == "NCHW":
        expected = expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(run_keras(weights, pictures()), expected, **TOLERANCE)
    assert not np.allclose(expected[0], expected[1], **TOLERANCE)
    return weights.record.spec


@pytest.mark.parametrize(("depth", "layout"), [(18, "NCHW"), (50, "NCHW"), (50, "NHWC")])
@pytest.mark.parametrize("norm", ["batch_norm", "biased_batch_norm", "folded", "chain"])
def test_every_form_of_batch_norm_computes_what_onnx_runtime_computes(
    tmp_path, norm, depth, *, layout
):
    path = Export(depth, norm=norm, layout=layout).save(tmp_path / "net.onnx")
    spec = assert_same_network(path, layout)
    assert spec == ResNetSpec(depth, "v1.5", 0.125, "symmetric", 1e-5)


@pytest.mark.parametrize("variant", ["v1", "v1.5"])
def test_variant_is_where_the_stride_is(tmp_path, variant):
    path = Export(50, variant=variant).save(tmp_path / "net.onnx")
    assert assert_same_network(path).variant == variant


@pytest.mark.parametrize(
    ("pool", "padding"),
    [
        ("symmetric", "symmetric"),
        ("padded", "symmetric"),
        ("same", "same"),
        ("same_upper", "same"),
        ("ceil", "same"),
        ("edge", "same"),
    ],
)
def test_pool_padding_is_read_in_every_spelling(tmp_path, pool, padding):
    path = Export(18, pool=pool).save(tmp_path / "net.onnx")
    assert assert_same_network(path).pool_padding == padding


@pytest.mark.parametrize("head", ["gemm", "gemm_plain", "matmul", "conv", "none"])
def test_every_form_of_head_is_read(tmp_path, head):
    path = Export(18, head=head).save(tmp_path / "net.onnx")
    assert_same_network(path)
    assert read_onnx(path, recipe=IDENTITY).num_classes == (None if head == "none" else 5)


@pytest.mark.parametrize("width", [0.125, 0.25, 0.5])
def test_width_is_read_from_the_channels(tmp_path, width):
    path = Export(18, width=width).save(tmp_path / "net.onnx")
    assert read_onnx(path, recipe=IDENTITY).record.spec.width == width


@pytest.mark.parametrize("resnext", [(4, 8), (2, 64), (1, 128)])
def test_groups_and_inner_widths_are_read_from_the_kernels(tmp_path, resnext):
    path = Export(50, width=0.25, resnext=resnext).save(tmp_path / "net.onnx")
    spec = assert_same_network(path)
    assert (spec.groups, spec.width_per_group, spec.width) == (*resnext, 0.25)


@pytest.mark.parametrize(("depth", "average"), [(18, "ceil"), (50, "same")])
def test_deep_stems_and_average_pools_are_the_d_variant(tmp_path, depth, average):
    path = Export(depth, deep=True, average=average, reverse="gather").save(tmp_path / "net.onnx")
    assert assert_same_network(path) == ResNetSpec(depth, "d", 0.125)


@pytest.mark.parametrize("epsilon", [1e-5, 1.001e-5, 2e-5, 1e-3])
def test_epsilon_is_that_of_the_batch_norms(tmp_path, epsilon):
    path = Export(18, epsilon=epsilon).save(tmp_path / "net.onnx")
    assert assert_same_network(path).bn_epsilon == epsilon


def test_explicitly_padded_convolutions_are_the_same_network(tmp_path):
    assert_same_network(Export(18, explicit_pads=True).save(tmp_path / "net.onnx"))


def test_kernels_behind_constant_nodes_are_found(tmp_path):
    path = Export(18, hidden_kernels=True).save(tmp_path / "net.onnx")
    assert_same_network(path)


def test_half_precision_is_converted(tmp_path):
    export = Export(18, precision="float16")
    tensors = read_onnx(export.save(tmp_path / "net.onnx"), recipe=IDENTITY).tensors
    expected = export.kernels["stem"].astype(np.float16).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(tensors["stem_conv/kernel"], expected)
    assert {array.dtype.name for array in tensors.values()} == {"float32"}


def test_features_beside_pooled_features_are_one_network(tmp_path):
    model = Export(18, head="none").model()
    features = model.graph.output[0].name
    model.graph.node.append(helper.make_node("GlobalAveragePool", [features], ["pooled"]))
    model.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "net.onnx")
    weights = read_onnx(tmp_path / "net.onnx", recipe=IDENTITY)
    assert weights.num_classes is None
    assert weights.record.spec.depth == 18


def test_shortcut_and_last_convolution_of_equal_shape_are_told_apart_by_their_input(tmp_path):
    export = Export(50, width=1.0, shortcut_first=True)
    weights = read_onnx(export.save(tmp_path / "net.onnx"), recipe=IDENTITY)
    for name in ("stage1_block1_shortcut", "stage1_block1_3"):
        kernel = weights.tensors[f"{name}_conv/kernel"]
        assert kernel.shape == (1, 1, 64, 256)
        np.testing.assert_array_equal(kernel, export.kernels[name].transpose(2, 3, 1, 0))


def test_real_batch_norm_keeps_its_tensors(tmp_path):
    export = Export(18, norm="biased_batch_norm")
    tensors = read_onnx(export.save(tmp_path / "net.onnx"), recipe=IDENTITY).tensors
    norm = export.norms["stage2_block1_1"]
    np.testing.assert_array_equal(tensors["stage2_block1_1_bn/gamma"], norm["gamma"])
    np.testing.assert_array_equal(tensors["stage2_block1_1_bn/moving_variance"], norm["variance"])
    np.testing.assert_allclose(
        tensors["stage2_block1_1_bn/moving_mean"], norm["mean"] - norm["bias"], rtol=1e-6
    )


def test_normalisation_in_the_graph_becomes_the_recipe(tmp_path):
    path = Export(18, normalise=(120.0, 60.0)).save(tmp_path / "net.onnx")
    weights = read_onnx(path, recipe=IDENTITY)
    np.testing.assert_allclose(weights.record.recipe.mean, (120.0,) * 3, rtol=1e-6)
    np.testing.assert_allclose(weights.record.recipe.std, (60.0,) * 3, rtol=1e-6)
    images = pictures() * 50 + 100
    expected = run_onnx(path, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(run_keras(weights, images), expected, **TOLERANCE)


@pytest.mark.parametrize("reverse", ["gather", "slice"])
def test_reversed_colours_in_the_graph_are_moved_into_the_kernel(tmp_path, reverse):
    assert_same_network(Export(18, reverse=reverse).save(tmp_path / "net.onnx"))


def test_bgr_weights_take_rgb_afterwards(tmp_path):
    path = Export(18).save(tmp_path / "net.onnx")
    weights = read_onnx(path, recipe=Recipe(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)), bgr=True)
    rgb = pictures()
    bgr = rgb[..., ::-1] - np.array([0.3, 0.2, 0.1])
    expected = run_onnx(path, bgr.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(run_keras(weights, rgb), expected, **TOLERANCE)


def test_external_data_beside_the_file_is_read(tmp_path):
    model = Export(18).model()
    inside = Export(18).save(tmp_path / "inside.onnx")
    outside = tmp_path / "outside.onnx"
    onnx.save_model(model, outside, save_as_external_data=True, location="outside.data")
    left, right = (read_onnx(path, recipe=IDENTITY).tensors for path in (inside, outside))
    assert left.keys() == right.keys()
    assert all(np.array_equal(left[name], right[name]) for name in left)
    (tmp_path / "outside.data").unlink()
    with pytest.raises(WeightsError, match="outside"):
        read_onnx(outside)


def test_light_resnet50_of_the_onnx_package_fits_completely():
    path = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
    weights = read_onnx(path, recipe=IDENTITY)
    assert weights.record.spec == ResNetSpec(50)
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    probabilities = keras.ops.softmax(run_keras(weights, images))
    stored = onnx.TensorProto.FromString(path.with_name("light_resnet50_output_0.pb").read_bytes())
    np.testing.assert_allclose(probabilities, numpy_helper.to_array(stored), **TOLERANCE)


def test_missing_recipe_is_said_aloud(tmp_path, caplog):
    path = Export(18).save(tmp_path / "net.onnx")
    with caplog.at_level(logging.WARNING, "resnet_keras"):
        weights = read_onnx(path)
    assert weights.record.recipe == Recipe()
    assert [record for record in caplog.messages if "ImageNet" in record and "recipe=" in record]


def test_given_recipe_is_kept_without_a_word(tmp_path, caplog):
    read_onnx(Export(18).save(tmp_path / "net.onnx"), recipe=IDENTITY)
    assert not caplog.messages


REFUSED = {
    "quantised": ({"relu": "quantised"}, "QuantizeLinear"),
    "shortcut before the ReLU": ({"shortcut_before_relu": True}, "starts before a ReLU"),
    "groups": ({"groups": 2}, "groups"),
    "deep stem alone": ({"deep": True}, "before none of its projections"),
    "average pools alone": ({"average": "ceil"}, "before some of its projections"),
    "average pools rounded down": ({"deep": True, "average": "floor"}, "2 x 2, rounded up"),
    "dilation": ({"dilation": 2}, "dilated"),
    "bottom right padding": ({"conv_pads": (0, 0, 1, 1)}, "pads"),
    "same_lower": ({"pool": "same_lower"}, "SAME_LOWER"),
    "no pool": ({"pool": "none"}, "no max pool"),
    "unpadded pool": ({"pool": "valid"}, r"pads \(0, 0, 0, 0\)"),
    "projection of equal shapes": ({"always_project": True}, "projection for equal shapes"),
    "pre-activation": ({"preactivation": True}, "pre-activation"),
    "relu6": ({"relu": "relu6"}, "Clip"),
    "leaky relu": ({"relu": "leaky"}, "LeakyRelu"),
    "no relu after the sum": ({"relu": "not after sums"}, "no ReLU follows"),
    "wide stem": ({"stem": 32}, "stem has 32 filters"),
    "other depth": ({"blocks": (2, 2, 2, 1)}, "known depths"),
    "five stages": ({"blocks": (2, 2, 2, 2, 2)}, "known depths"),
    "mixed epsilons": ({"epsilon": (1e-5, 1e-3)}, "different epsilons"),
    "training mode": ({"training_mode": 1}, "training mode"),
    "wide last stage": ({"last_width": 24}, "channels wide"),
    "two inputs": ({"second_input": True}, "2 inputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_spec_can_express_is_refused_by_its_cause(tmp_path, case):
    options, message = REFUSED[case]
    path = Export(18, **options).save(tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match=message):
        read_onnx(path, recipe=IDENTITY)


def test_unused_tensors_are_listed(tmp_path):
    model = Export(18).model()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "stray"))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match="belong to no layer: stray"):
        read_onnx(tmp_path / "net.onnx")


def test_convolutions_outside_of_the_blocks_are_listed(tmp_path):
    model = Export(18).model()
    kernel = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "aside_kernel")
    model.graph.initializer.append(kernel)
    node = helper.make_node("Conv", ["image", "aside_kernel"], ["aside"], name="aside")
    model.graph.node.append(node)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match="aside"):
        read_onnx(tmp_path / "net.onnx")


def test_missing_tensor_is_named(tmp_path):
    model = Export(18).model()
    names = [tensor.name for tensor in model.graph.initializer]
    del model.graph.initializer[names.index("stage1_block1_1_kernel")]
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match="stage1_block1_1_kernel"):
        read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"PK\x03\x04 and more", "zip"),
        (b"\x08\x07", "no ONNX model"),
        (bytes(range(256)) * 4, "no ONNX model"),
        (b"plain text that is no protobuf at all", "no ONNX model"),
    ],
)
def test_what_is_no_onnx_file_is_said_to_be_none(tmp_path, data, message):
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        read_onnx(path)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_file_is_refused(tmp_path, share):
    path = Export(18).save(tmp_path / "net.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=r"net\.onnx"):
        read_onnx(path)


def test_tensor_larger_than_its_data_is_refused_without_allocating(tmp_path):
    model = Export(18).model()
    model.graph.initializer[0].dims[:] = [2**20, 2**20, 7, 7]
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match="damaged"):
        read_onnx(tmp_path / "net.onnx")


def test_vector_of_a_trillion_numbers_is_refused_at_once(tmp_path):
    model = Export(18, norm="chain").model()
    names = [tensor.name for tensor in model.graph.initializer]
    model.graph.initializer[names.index("stem_chain0_raw")].dims[:] = [2**40]
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match=r"net\.onnx"):
        read_onnx(tmp_path / "net.onnx")


def test_computed_constant_that_would_fill_the_memory_is_refused(tmp_path):
    model = Export(18).model()
    names = [tensor.name for tensor in model.graph.initializer]
    del model.graph.initializer[names.index("stem_kernel")]
    shape = numpy_helper.from_array(np.array([2**20, 3, 2**20, 2**20]), "bomb_shape")
    model.graph.initializer.append(shape)
    fill = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    bomb = helper.make_node("ConstantOfShape", ["bomb_shape"], ["stem_kernel"], value=fill)
    model.graph.node.insert(0, bomb)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match="fill the memory"):
        read_onnx(tmp_path / "net.onnx")


def test_missing_onnx_package_is_answered_with_the_command(tmp_path, monkeypatch):
    path = Export(18).save(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r'pip install "resnet_keras\[onnx\]"'):
        read_onnx(path)


def test_depths_of_the_table_are_all_recognised(tmp_path):
    found = {
        depth: read_onnx(Export(depth).save(tmp_path / f"{depth}.onnx"), recipe=IDENTITY)
        for depth in DEPTHS
    }
    assert {depth: weights.record.spec.depth for depth, weights in found.items()} == {
        depth: depth for depth in DEPTHS
    }
