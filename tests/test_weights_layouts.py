"""Weights of other libraries: every tensor in its place, and the logits of those libraries."""

import dataclasses

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy

from resnet_keras.builder import build_network, build_resnet
from resnet_keras.errors import WeightsError
from resnet_keras.records import Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import REGISTRY, read_weights
from resnet_keras.weights.layouts import LAYOUTS, detect_layout
from resnet_keras.weights.layouts.convert import convert, infer_spec
from resnet_keras.weights.layouts.plan import layers_of
from tests.foreign_weights import (
    classification_model,
    forget_names,
    keras_application,
    keras_hub_backbone,
    pictures,
    randomise,
    resnext,
    spread_difference,
    with_head,
    write_keras2,
)

CAFFE = keras.applications.resnet.preprocess_input
SYMMETRIC = keras.applications.resnet_v2.preprocess_input
# At odd sizes wrong (bottom and right) padding would go unnoticed, at even ones right padding
# that is not wanted.
SIZES = (64, 65)


def torch_recipe(pixels):
    return keras.applications.imagenet_utils.preprocess_input(pixels, mode="torch")


def check_logits(path, theirs, prepare, sizes=SIZES, **options):
    """Compares what our network makes of pixels with what the library makes of them."""
    weights = read_weights(path, **options)
    ours = build_resnet(weights=weights)
    for size in sizes:
        pixels = pictures(size)
        expected = theirs(prepare(pixels.copy()), training=False)
        assert spread_difference(ours(pixels, training=False), expected) <= 1e-4
    return weights


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def fields(spec, **wanted):
    """Returns those fields of a spec that are wanted, to be compared with them."""
    return {name: getattr(spec, name) for name in wanted}


# keras.applications


@pytest.fixture(scope="module", params=["v1", "v2"])
def application(request):
    preact = request.param == "v2"
    return randomise(keras_application(preact), 1), SYMMETRIC if preact else CAFFE


def test_published_files_of_keras_applications_give_their_logits(application, tmp_path):
    theirs, prepare = application
    path = write_keras2(theirs, tmp_path / "published.h5", scope="{}_1")
    spec = check_logits(path, theirs, prepare, (224, 64, 65)).record.spec
    wanted = {"depth": 50, "width": 0.125, "bn_epsilon": 1.001e-5}
    assert fields(spec, **wanted) == wanted
    assert spec.variant == ("v1" if prepare is CAFFE else "v2")


@pytest.mark.parametrize(
    ("application", "kind"),
    [
        ("v1", "names"),
        ("v1", "numbers"),
        ("v1", "archive"),
        ("v1", "whole model"),
        ("v2", "names"),
        ("v2", "numbers"),
    ],
    indirect=["application"],
)
def test_files_of_keras_3_hold_what_published_files_hold(application, tmp_path, kind):
    theirs, _ = application
    published = read_weights(write_keras2(theirs, tmp_path / "w_published.h5"))
    path = tmp_path / {"archive": "w.keras", "whole model": "w.h5"}.get(kind, "w.weights.h5")
    if kind in ("names", "numbers"):
        theirs.save_weights(path)
    else:
        theirs.compile("adam", "mse")
        theirs.optimizer.build(theirs.trainable_variables)
        theirs.save(path)
    if kind == "numbers":
        forget_names(path)
    weights = read_weights(path, allow_keras=kind == "archive")
    assert weights.record.spec == published.record.spec
    assert weights.record.recipe == published.record.recipe
    assert_same(weights.tensors, published.tensors)


@pytest.mark.parametrize(
    ("network", "prepare"),
    [
        ("ResNet50", CAFFE),
        pytest.param("ResNet50V2", SYMMETRIC, marks=pytest.mark.slow),
        pytest.param("ResNet101", CAFFE, marks=pytest.mark.slow),
        pytest.param("ResNet152", CAFFE, marks=pytest.mark.slow),
        pytest.param("ResNet101V2", SYMMETRIC, marks=pytest.mark.slow),
        pytest.param("ResNet152V2", SYMMETRIC, marks=pytest.mark.slow),
    ],
)
def test_full_networks_of_keras_applications_give_their_logits(tmp_path, network, prepare):
    base = getattr(keras.applications, network)(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    theirs = randomise(with_head(base, "predictions", 1000), 2)
    theirs.save_weights(tmp_path / "w.weights.h5")
    weights = check_logits(tmp_path / "w.weights.h5", theirs, prepare, (224, *SIZES))
    assert str(weights.record.spec.depth) in network


def test_file_without_a_head_gives_features(tmp_path):
    theirs = randomise(keras_application(preact=False), 3)
    features = keras.Model(theirs.input, theirs.layers[-3].output)
    path = write_keras2(features, tmp_path / "w_notop.h5")
    weights = read_weights(path)
    assert weights.num_classes is None
    assert build_resnet(weights=weights).output.shape == (None, None, None, 256)


def test_depthwise_resnext_becomes_a_grouped_one(tmp_path):
    theirs = randomise(resnext(), 4)
    path = write_keras2(theirs, tmp_path / "resnext.h5")
    weights = check_logits(path, theirs, torch_recipe, (64,))
    wanted = {"variant": "v1.5", "width": 0.5, "groups": 32, "width_per_group": 4}
    assert fields(weights.record.spec, **wanted) == wanted
    with h5py.File(path, "r+") as file:
        file["conv3_block2_2_gconv/conv3_block2_2_gconv/kernel:0"][0, 0, 5, 7] += 1
    with pytest.raises(WeightsError, match="does not sum the outputs of the depthwise"):
        read_weights(path)
    # Release 1.0.7 of keras-applications had no layer for the sum.
    with h5py.File(path, "r+") as file:
        for name in [name for name in file if name.endswith("_gconv")]:
            del file[name]
    assert_same(read_weights(path).tensors, weights.tensors)


# classification_models


@pytest.mark.parametrize("depth", [18, 50])
def test_files_of_classification_models_give_their_logits(tmp_path, depth):
    theirs = randomise(classification_model(depth, 8), 5)
    path = write_keras2(theirs, tmp_path / "w.h5")
    weights = check_logits(path, theirs, lambda pixels: pixels, (224, 65) if depth == 18 else SIZES)
    wanted = {"depth": depth, "variant": "v2", "shortcut": "stage", "stem_norm": True}
    assert fields(weights.record.spec, **wanted) == wanted


def test_norm_of_the_pixels_becomes_the_recipe(tmp_path):
    theirs = classification_model(18, 8)
    data = theirs.get_layer("bn_data")
    data.set_weights(np.array([[0.5, -1, 2], [120, 110, 100], [3600, 2500, 1600]]))
    recipe = read_weights(write_keras2(theirs, tmp_path / "w.h5")).record.recipe
    std = np.sqrt(np.array([3600.0, 2500.0, 1600.0]) + 2e-5)
    np.testing.assert_allclose(recipe.std, std, rtol=1e-6)
    np.testing.assert_allclose(recipe.mean, [120, 110, 100] - std * [0.5, -1, 2], rtol=1e-6)


# KerasHub


def hub_file(theirs, path):
    theirs.save_weights(path)
    return path


@pytest.mark.parametrize(
    ("depth", "variant"),
    [
        (18, "v1.5"),
        (18, "v2"),
        (18, "d"),
        pytest.param(50, "v2", marks=pytest.mark.slow),
        pytest.param(34, "v1.5", marks=pytest.mark.slow),
        pytest.param(50, "v1.5", marks=pytest.mark.slow),
        pytest.param(50, "d", marks=pytest.mark.slow),
    ],
)
def test_files_of_keras_hub_give_its_features(tmp_path, depth, variant):
    theirs = randomise(keras_hub_backbone(depth, variant=variant), 6)
    path = hub_file(theirs, tmp_path / "model.weights.h5")
    prepare = SYMMETRIC if variant == "v2" else torch_recipe
    named = check_logits(path, theirs, prepare, (224, *SIZES))
    assert (named.record.spec.depth, named.record.spec.variant) == (depth, variant)
    numbered = read_weights(forget_names(path))
    assert numbered.record == named.record
    assert_same(numbered.tensors, named.tensors)


def test_classifiers_of_keras_hub_have_their_backbone_inside(tmp_path):
    import keras_hub

    backbone = keras_hub_backbone(18)
    theirs = randomise(keras_hub.models.ResNetImageClassifier(backbone, 5), 7)
    path = hub_file(theirs, tmp_path / "task.weights.h5")
    assert check_logits(path, theirs, torch_recipe, (64,)).num_classes == 5
    assert read_weights(forget_names(path)).num_classes == 5


# torch


def torch_names(depth):
    """Yields (KerasHub's layer, torch's) for a plain network, as timm's converter has them."""
    yield "conv1", "conv1", "bn1"
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    for stage, count in enumerate(blocks):
        for block in range(count):
            theirs, ours = f"stack{stage}_block{block}", f"layer{stage + 1}.{block}"
            for number in (1, 2) if depth == 18 else (1, 2, 3):
                yield f"{theirs}_{number}", f"{ours}.conv{number}", f"{ours}.bn{number}"
            if block == 0 and (depth == 50 or stage):
                yield f"{theirs}_0", f"{ours}.downsample.0", f"{ours}.downsample.1"


def torch_tensors(backbone, depth, classes):
    """Returns a torchvision state dict with the weights of a backbone, and its head."""
    tensors = {}
    for theirs, conv, norm in torch_names(depth):
        kernel = np.array(backbone.get_layer(f"{theirs}_conv").kernel)
        tensors[f"{conv}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        values = backbone.get_layer(f"{theirs}_bn").get_weights()
        for name, value in zip(
            ("weight", "bias", "running_mean", "running_var"), values, strict=True
        ):
            tensors[f"{norm}.{name}"] = value
        tensors[f"{norm}.num_batches_tracked"] = np.array(7)
    rng = np.random.default_rng(8)
    features = backbone.output.shape[-1]
    tensors["fc.weight"] = rng.normal(0, 0.1, (classes, features)).astype("float32")
    tensors["fc.bias"] = rng.normal(0, 0.1, classes).astype("float32")
    return tensors


# The number of keys of torchvision's state dicts.
@pytest.mark.parametrize(
    ("depth", "keys"), [(18, 122), pytest.param(50, 320, marks=pytest.mark.slow)]
)
def test_state_dicts_of_torch_give_the_logits_of_the_same_network(tmp_path, depth, keys):
    backbone = randomise(keras_hub_backbone(depth), 8)
    # As many classes as features: a head that is not turned round would load all the same.
    tensors = torch_tensors(backbone, depth, backbone.output.shape[-1])
    assert len(tensors) == keys
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    head = keras.layers.Dense(len(tensors["fc.bias"]))
    theirs = keras.Model(backbone.input, head(pooled))
    head.set_weights([tensors["fc.weight"].T, tensors["fc.bias"]])
    weights = check_logits(tmp_path / "model.safetensors", theirs, torch_recipe)
    assert weights.record.spec == ResNetSpec(depth)


def _named(value):
    return value.title if isinstance(value, ResNetSpec) else ""


def empty_tensors(spec, layout, names=()):
    """Returns zeros of the right shapes under the names of a torch layout."""
    sizes = {"stem": 3, "logits": 5}
    shapes = {
        name: tuple(
            sizes[name.partition("_")[0].partition("/")[0]] if s is None else s for s in shape
        )
        for layer in layers_of(spec)
        for name, shape in ((f"{layer.name}/{v}", s) for v, s in layer.variables.items())
    }
    tensors = {}
    for ours, row in LAYOUTS[layout].table(spec, names).items():
        shape = shapes[ours]
        if layout == "torch" and len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        elif layout == "torch" and len(shape) == 2:
            shape = (shape[1], shape[0], *((1, 1) if spec.preactivation else ()))
        tensors[row.sources[0]] = np.zeros(shape, np.float32)
    return tensors


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (ResNetSpec(18, "d"), {"conv1.0.weight", "conv1.4.running_var", "bn1.bias"}),
        (
            ResNetSpec(50, "d"),
            {"layer1.0.downsample.1.weight", "layer4.0.downsample.2.running_mean"},
        ),
        (
            ResNetSpec(18, "v2"),
            {"stem.conv.weight", "stages.3.blocks.1.norm2.bias", "norm.weight", "head.fc.weight"},
        ),
        (
            ResNetSpec(50, "v2d"),
            {
                "stem.conv3.weight",
                "stem.norm2.running_var",
                "stages.0.blocks.0.downsample.conv.weight",
                "stages.2.blocks.5.norm3.weight",
            },
        ),
        (ResNetSpec(101, groups=32, width_per_group=8), {"layer3.22.conv3.weight"}),
        (ResNetSpec(50, width_per_group=128), {"layer4.2.bn3.running_mean"}),
        (ResNetSpec(34, width=0.5), {"layer4.2.conv2.weight"}),
        (ResNetSpec(50, width=0.25, groups=4, width_per_group=32), {"layer1.0.conv3.weight"}),
    ],
    ids=_named,
)
def test_networks_of_torch_are_read_from_names_and_shapes(spec, names):
    tensors = empty_tensors(spec, "torch")
    assert names <= tensors.keys()
    assert detect_layout(tensors, label="file") == "torch"
    assert infer_spec(tensors, "torch", label="file") == spec


def test_prefix_of_data_parallel_is_left_out():
    tensors = empty_tensors(ResNetSpec(18, width=0.125), "torch")
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    assert detect_layout(wrapped, label="file") == "torch"
    assert infer_spec(wrapped, "torch", label="file") == ResNetSpec(18, width=0.125)


# Accounting


SMALL = ResNetSpec(18, width=0.125)


def converted(tensors, spec=SMALL, layout="torch"):
    return convert(tensors, layout, Record(spec), bgr=False, label="small.pth")


def test_missing_and_left_over_tensors_are_listed():
    tensors = empty_tensors(SMALL, "torch")
    del tensors["layer2.0.downsample.0.weight"], tensors["bn1.running_var"]
    tensors["layer1.0.se.conv.weight"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError) as caught:
        converted(tensors)
    assert str(caught.value) == (
        "small.pth does not hold exactly the tensors of ResNet-18 v1.5, width 0.125: missing: "
        "bn1.running_var, layer2.0.downsample.0.weight; left over: layer1.0.se.conv.weight; name "
        "weights of the right network with `like`."
    )


def test_long_lists_are_cut_short():
    with pytest.raises(WeightsError, match=r"missing: bn1\.bias, .* and 94 more;"):
        converted({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})


@pytest.mark.parametrize("name", ["fc.bias", "conv1.weight", "layer4.1.bn2.running_mean"])
def test_no_tensor_can_be_missing(name):
    tensors = empty_tensors(SMALL, "torch")
    del tensors[name]
    with pytest.raises(WeightsError, match=f"missing: {name};"):
        converted(tensors)


def test_other_shape_is_named():
    tensors = empty_tensors(SMALL, "torch")
    tensors["layer3.1.conv1.weight"] = np.zeros((32, 32, 1, 1), np.float32)
    tensors["bn1.bias"] = np.zeros((64, 1), np.float32)
    with pytest.raises(WeightsError) as caught:
        converted(tensors)
    for part in (
        "layer3.1.conv1.weight (32, 32, 1, 1) should give "
        "stage3_block2_1_conv/kernel (3, 3, 32, 32)",
        "bn1.bias (64, 1) should give stem_bn/beta (64)",
    ):
        assert part in str(caught.value)


def test_kernel_with_too_few_axes_is_named():
    tensors = empty_tensors(SMALL, "torch")
    tensors["conv1.weight"] = np.zeros(64, np.float32)
    with pytest.raises(WeightsError, match=r"conv1\.weight \(64,\) should give stem_conv/kernel"):
        converted(tensors)


@pytest.mark.parametrize(
    "change", [{"depth": 34}, {"variant": "d"}, {"width": 0.25}, {"depth": 50}], ids=str
)
def test_weights_of_another_network_are_refused(change):
    tensors = empty_tensors(SMALL, "torch")
    with pytest.raises(WeightsError, match=r"does not (fit|hold exactly the tensors of) ResNet"):
        converted(tensors, dataclasses.replace(SMALL, block=None, **change))


def test_depth_that_no_spec_has_is_refused():
    spec = ResNetSpec(50, width=0.125)
    # timm's resnet26: bottlenecks, two a stage.
    tensors = {
        name: tensor
        for name, tensor in empty_tensors(spec, "torch").items()
        if not name.startswith("layer") or int(name[7]) < 2
    }
    with pytest.raises(WeightsError, match=r"resnet26\.pth does not hold exactly the tensors of"):
        infer_spec(tensors, "torch", label="resnet26.pth")


def test_stage_of_uneven_width_is_refused():
    tensors = empty_tensors(ResNetSpec(50, width=0.125), "torch")
    pruned = tensors["layer3.2.conv1.weight"][:17]
    tensors["layer3.2.conv1.weight"] = pruned
    spec = infer_spec(tensors, "torch", label="pruned.pth")
    with pytest.raises(WeightsError, match=r"layer3\.2\.conv1\.weight \(17, 128, 1, 1\)"):
        converted(tensors, spec)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), r"does not fit ResNet-50 v1\.5, width 0\.125: layer1\.0\.conv2\.weight \(\) should"),
        ((8, 8), r"conv2\.weight \(8, 8\) should give .* \(3, 3, 8, 8\)"),
        ((8, 0, 3, 3), r"conv2\.weight \(8, 0, 3, 3\) should give .* \(3, 3, 8, 8\)"),
        ((8, 16, 3, 3), r"conv2\.weight \(8, 16, 3, 3\) should give .* \(3, 3, 8, 8\)"),
        ((2**15, 1, 3, 3), r"does not fit ResNeXt-50 32768x8d"),
    ],
    ids=str,
)
def test_strange_shapes_are_sentences(shape, message):
    tensors = empty_tensors(ResNetSpec(50, width=0.125), "torch")
    tensors["layer1.0.conv2.weight"] = np.broadcast_to(np.float32(0), shape)
    with pytest.raises(WeightsError, match=message):
        converted(tensors, infer_spec(tensors, "torch", label="small.pth"))


def test_names_of_no_layout_are_named():
    tensors = {"patch_embed.weight": np.zeros(3), "cls_token": np.zeros(2)}
    with pytest.raises(WeightsError, match=r"vit\.pth was written by another program.*cls_token"):
        detect_layout(tensors, label="vit.pth")


# Plans

SPECS = [
    *(ResNetSpec(18, variant, 0.125) for variant in ("v1", "v1.5", "v2", "d")),
    ResNetSpec(50, "v2d", 0.125),
    ResNetSpec(50, width=0.25, groups=8, width_per_group=16),
    ResNetSpec(50, "v2", 0.125, shortcut="stage", stem_norm=True),
    ResNetSpec(18, "d", 0.125, shortcut="stage"),
    ResNetSpec(18, "v2d", 0.125, shortcut="C", stem_norm=True),
    ResNetSpec(18, "v1", shortcut="A"),
    ResNetSpec(50, "v1", 0.125, conv_bias=("stem", "shortcut", "inner", "last")),
    ResNetSpec(50, "v2", 0.125, conv_bias=("stem", "last"), stride_block="last"),
]


@pytest.mark.parametrize("spec", SPECS, ids=_named)
def test_plan_of_a_network_is_what_is_built(spec):
    model = build_network(Record(spec), num_classes=7)
    built = {
        f"{layer.name}/{weight.name}": tuple(weight.shape)
        for layer in model.layers
        for weight in layer.weights
    }
    planned = {
        f"{layer.name}/{name}": shape
        for layer in layers_of(spec)
        for name, shape in layer.variables.items()
    }
    assert built.keys() == planned.keys()
    open_sizes = {name: shape for name, shape in planned.items() if None in shape}
    assert {name.partition("_")[0].partition("/")[0] for name in open_sizes} == {"stem", "logits"}
    for name, shape in planned.items():
        assert all(size in (None, own) for size, own in zip(shape, built[name], strict=True))


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_plan_of_registered_weights_has_the_published_parameters(name):
    entry = REGISTRY[name]
    classes = entry.num_classes
    total = 0
    for layer in layers_of(entry.record.spec):
        if layer.name == "logits" and classes is None:
            continue
        for variable, shape in layer.variables.items():
            if not variable.startswith("moving"):
                sizes = [
                    {"stem": 3}.get(layer.name[:4], classes) if s is None else s for s in shape
                ]
                total += int(np.prod(sizes))
    assert total == entry.parameters
