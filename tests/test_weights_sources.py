"""What a source means: a name, a copy of a published file, a file like one, a file by itself."""

import dataclasses
import hashlib
import logging

import numpy as np
import pytest
import safetensors.numpy
import typer
from typer.testing import CliRunner

from resnet_keras.builder import build_resnet
from resnet_keras.cli.weights_convert import convert
from resnet_keras.errors import WeightsError
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import REGISTRY, read_weights, save_weights
from resnet_keras.weights.downloads.cache import cache_path
from resnet_keras.weights.entries import PublishedFile, RegistryEntry
from resnet_keras.weights.published_files import read_published
from resnet_keras.weights.sources import resolve
from tests.onnx_networks import Export

SPEC = ResNetSpec(18, width=0.125)
CLASSES = ("cat", "dog", "emu")
NAME = "small.made_for_this_test"
URL = "https://weights.invalid/small.safetensors"


def torch_state(spec=SPEC, classes=3, seed=0):
    """Returns a state dict of torchvision's for a network of basic blocks."""
    rng = np.random.default_rng(seed)
    widths = [int(64 * spec.width * 2**stage) for stage in range(4)]
    state = {}

    def conv_bn(conv, norm, shape):
        state[f"{conv}.weight"] = rng.normal(0, 0.1, shape).astype("float32")
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{name}"] = rng.uniform(0.5, 1.5, shape[:1]).astype("float32")
        state[f"{norm}.num_batches_tracked"] = np.array(5)

    conv_bn("conv1", "bn1", (64, 3, 7, 7))
    channels = 64
    for stage, width in enumerate(widths):
        for block in range(2):
            start = f"layer{stage + 1}.{block}"
            conv_bn(f"{start}.conv1", f"{start}.bn1", (width, channels, 3, 3))
            conv_bn(f"{start}.conv2", f"{start}.bn2", (width, width, 3, 3))
            if channels != width:
                shape = (width, channels, 1, 1)
                conv_bn(f"{start}.downsample.0", f"{start}.downsample.1", shape)
            channels = width
    state["fc.weight"] = rng.normal(0, 0.1, (classes, channels)).astype("float32")
    state["fc.bias"] = rng.normal(0, 0.1, classes).astype("float32")
    return state


@pytest.fixture
def path(tmp_path):
    safetensors.numpy.save_file(torch_state(), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def entry_for(path, **changes):
    record = Record(
        spec=SPEC,
        recipe=Recipe(64, 0.95, "bicubic", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
        class_names=CLASSES,
        name=NAME,
        source="made for this test",
        licence="CC-BY-4.0",
    )
    file = PublishedFile(URL, "torch", sha256=hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    entry = RegistryEntry(record, "other", (file,), parameters=1, num_classes=3)
    return dataclasses.replace(entry, **changes)


@pytest.fixture
def registered(path, monkeypatch):
    """Returns an entry of the registry whose published file is that at `path`."""
    monkeypatch.setitem(REGISTRY, NAME, entry_for(path))
    return REGISTRY[NAME]


def retrained(path, seed=1, classes=3):
    """Writes other weights of the same network over a file."""
    safetensors.numpy.save_file(torch_state(classes=classes, seed=seed), path)
    return path


# Names


def test_imagenet_means_registered_weights_of_the_depth():
    assert resolve("imagenet") == "resnet50.tv_in1k"
    assert resolve("imagenet", 34) == "resnet34.tv_in1k"
    assert resolve("resnet18.a1_in1k", 50) == "resnet18.a1_in1k"
    with pytest.raises(WeightsError, match="depth"):
        resolve("imagenet", 200)


def test_registered_weights_are_read_out_of_the_cache(registered, path, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESNET_KERAS_OFFLINE", "1")
    with pytest.raises(WeightsError, match="by hand"):
        read_weights(NAME)
    cached = cache_path(registered.files[0])
    cached.parent.mkdir(parents=True)
    path.rename(cached)
    weights = read_weights(NAME)
    assert weights.record == registered.record
    kernel = torch_state()["layer3.0.downsample.0.weight"]
    found = weights.tensors["stage3_block1_shortcut_conv/kernel"]
    np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1000}, "has 3 classes and 'small.* has 1000"),
        ({"spec": ResNetSpec(34, width=0.125)}, "ResNet-34 v1.5, width 0.125: missing: layer1.2"),
    ],
)
def test_published_file_of_something_else_is_refused(path, changes, message):
    if "spec" in changes:
        changes = {"record": dataclasses.replace(entry_for(path).record, **changes)}
    entry = entry_for(path, **changes)
    with pytest.raises(WeightsError, match=message):
        read_published(path, entry, entry.files[0])


def test_weights_for_bgr_are_turned_round(path):
    entry = entry_for(path)
    plain = read_published(path, entry, entry.files[0])
    turned = read_published(path, dataclasses.replace(entry, bgr=True), entry.files[0])
    kernels = [weights.tensors.pop("stem_conv/kernel") for weights in (plain, turned)]
    np.testing.assert_array_equal(kernels[0], kernels[1][:, :, ::-1])
    assert all(np.array_equal(plain.tensors[name], turned.tensors[name]) for name in plain.tensors)


# Copies


@pytest.mark.parametrize("like", [None, NAME])
def test_copy_of_a_published_file_gets_its_record(registered, path, like):
    assert read_weights(path, like=like).record == registered.record


def test_copy_is_known_by_its_md5_too(registered, path, monkeypatch):
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    file = PublishedFile(URL, "torch", md5=md5)
    monkeypatch.setitem(REGISTRY, NAME, dataclasses.replace(registered, files=(file,)))
    assert read_weights(path).record.name == NAME


def test_copy_of_other_weights_than_named_is_refused(registered, path):
    with pytest.raises(WeightsError, match=f"copy of the published weights {NAME}, not of"):
        read_weights(path, like="resnet18.a1_in1k")


# Like others


def test_weights_like_registered_ones_have_their_recipe(registered, path):
    record = read_weights(retrained(path), like=NAME).record
    assert (record.spec, record.recipe) == (registered.record.spec, registered.record.recipe)
    assert (record.class_names, record.licence) == (CLASSES, "CC-BY-4.0")
    assert record.name == "mine"
    assert NAME in record.source


def test_other_classes_lose_their_names(registered, path):
    weights = read_weights(retrained(path, classes=5), like=NAME)
    assert (weights.num_classes, weights.record.class_names) == (5, ())


def test_weights_unlike_those_named_are_refused(path):
    with pytest.raises(WeightsError, match="does not hold exactly the tensors of ResNet-50"):
        read_weights(path, like="resnet50.a1_in1k")


def test_onnx_files_can_be_like_registered_weights_too(registered, tmp_path):
    path = Export(18).save(tmp_path / "mine.onnx")
    weights = read_weights(path, like=NAME)
    assert (weights.record.recipe, weights.num_classes) == (registered.record.recipe, 5)
    assert (weights.record.name, weights.record.class_names) == ("mine", ())
    with pytest.raises(WeightsError, match=r"not of that of 'resnet18\.a1_in1k'"):
        read_weights(path, like="resnet18.a1_in1k")


def test_copy_of_a_published_onnx_file_gets_its_record(tmp_path, monkeypatch):
    path = Export(18).save(tmp_path / "mine.onnx")
    file = PublishedFile(URL, "onnx", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    entry = entry_for(path, files=(file,), num_classes=5)
    monkeypatch.setitem(REGISTRY, NAME, entry)
    assert read_weights(path).record == entry.record


def test_unknown_name_to_be_like_is_refused(path):
    with pytest.raises(WeightsError, match=r"Did you mean 'resnet18\.a1_in1k'"):
        read_weights(path, like="resnet18.a1_in1")


def test_sources_that_say_what_they_are_are_like_nothing_else(tmp_path):
    model = build_resnet(18, num_classes=2, width=0.125)
    own = save_weights(model, tmp_path / "own.safetensors")
    for source in (own, "open_nsfw", "imagenet"):
        with pytest.raises(WeightsError, match="says itself which network it is of"):
            read_weights(source, like="resnet18.a1_in1k")


# By themselves


def test_unknown_file_is_read_by_its_names_and_what_is_assumed_is_said(path, caplog):
    with caplog.at_level(logging.WARNING, "resnet_keras"):
        weights = read_weights(path)
    assert weights.record == Record(
        SPEC, Recipe(), (), "mine", "mine.safetensors, laid out as torch"
    )
    assert weights.num_classes == 3
    for part in ("ResNet-18 v1.5, width 0.125", "mean (123.675, 116.28, 103.53)", "`like`"):
        assert part in caplog.text


def test_file_without_a_head_builds_features(path):
    state = {name: value for name, value in torch_state().items() if not name.startswith("fc.")}
    safetensors.numpy.save_file(state, path)
    assert build_resnet(weights=path).output.shape == (None, None, None, 64)
    assert build_resnet(weights=path, num_classes=4).output.shape == (None, 4)


def test_grey_weights_get_a_grey_recipe(path):
    state = torch_state()
    state["conv1.weight"] = state["conv1.weight"].sum(axis=1, keepdims=True)
    safetensors.numpy.save_file(state, path)
    recipe = read_weights(path).record.recipe
    assert recipe.mean == pytest.approx((np.mean(Recipe().mean),))
    assert recipe.std == pytest.approx((np.mean(Recipe().std),))


def test_numbers_that_are_not_finite_are_refused_unless_asked_for(path):
    state = torch_state()
    state["bn1.bias"][3] = np.nan
    safetensors.numpy.save_file(state, path)
    with pytest.raises(WeightsError, match=r"not finite.*stem_bn/beta"):
        read_weights(path)
    assert np.isnan(read_weights(path, allow_nonfinite=True).tensors["stem_bn/beta"]).sum() == 1


# weights convert


def run_convert(*arguments):
    app = typer.Typer()
    app.command()(convert)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_converted_weights_say_what_they_are(registered, path, tmp_path):
    expected = read_weights(path)
    done = run_convert(path, tmp_path / "out.safetensors")
    assert done.exit_code == 0, done.output
    assert "ResNet-18 v1.5, width 0.125, 3 classes, licence CC-BY-4.0" in done.output
    weights = read_weights(tmp_path / "out.safetensors")
    assert weights.record == expected.record
    assert all(
        np.array_equal(weights.tensors[name], expected.tensors[name]) for name in expected.tensors
    )


def test_converting_like_others_takes_their_record(registered, path, tmp_path):
    done = run_convert(retrained(path), tmp_path / "out.safetensors", "--like", NAME)
    assert done.exit_code == 0, done.output
    assert read_weights(tmp_path / "out.safetensors").record.recipe == registered.record.recipe


def test_output_of_another_kind_is_refused(path, tmp_path):
    done = run_convert(path, tmp_path / "out.h5")
    assert isinstance(done.exception, ValueError)
    assert "OUT must end in .safetensors" in str(done.exception)
    assert not (tmp_path / "out.h5").exists()
