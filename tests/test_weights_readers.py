"""Files of other programs: read as they are, or refused in a sentence; none can run code."""

import contextlib
import importlib.util
import io
import json
import logging
import os
import pickle
import struct
import zipfile

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_keras.errors import WeightsError
from resnet_keras.weights.readers import read_foreign

TORCH = importlib.util.find_spec("torch") is not None
KERNEL = np.linspace(-1, 1, 36, dtype=np.float32).reshape(3, 3, 2, 2)
BIAS = np.array([0.5, -2.0], np.float32)


def write_h5(path, kernel=KERNEL):
    """Writes a convolution as Keras 3 writes it."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "conv1_conv"
        group["0"], group["1"] = kernel, BIAS
    return path


@pytest.fixture
def h5(tmp_path):
    return write_h5(tmp_path / "w.weights.h5")


def refused(path, message, **options):
    """Checks that a file is refused in one sentence that names it, and not as a traceback."""
    with pytest.raises(WeightsError, match=message) as caught:
        read_foreign(path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array)


# safetensors


def test_safetensors_of_other_programs_are_read(tmp_path):
    tensors = {"conv1.weight": KERNEL, "bn1.num_batches_tracked": np.array(3)}
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    same(read_foreign(tmp_path / "m.safetensors"), {"conv1.weight": KERNEL})


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_other_floats_are_converted_and_said_to_be(tmp_path, caplog, dtype):
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"a": BIAS.astype(dtype), "b": BIAS}, path)
    with caplog.at_level(logging.WARNING, "resnet_keras"):
        same(read_foreign(path), {"a": BIAS, "b": BIAS})
    assert f"m.safetensors holds {np.dtype(dtype).name}; converted to float32" in caplog.text


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool"])
def test_whole_numbers_are_refused_but_for_counters(tmp_path, dtype):
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"a": np.ones(2, dtype), "b": BIAS}, path)
    refused(path, "whole numbers or flags where weights are needed: a")


# Low bytes of the header's length that are those of pickles and of gzip.
@pytest.mark.parametrize("low", [b"\x80\x02", b"\x80\x04", b"\x1f\x8b"])
def test_length_of_a_header_is_not_taken_for_another_kind(tmp_path, low):
    entry = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(entry).encode().ljust(int.from_bytes(low, "little"))
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + BIAS.tobytes())
    assert path.read_bytes().startswith(low)
    same(read_foreign(path), {"a": BIAS})
    path.write_bytes(path.read_bytes()[:6])
    refused(path, "truncated: 6 bytes")


def test_file_without_weights_is_refused(tmp_path):
    safetensors.numpy.save_file({"n.num_batches_tracked": np.array(1)}, tmp_path / "m.safetensors")
    refused(tmp_path / "m.safetensors", "holds no weights")


# HDF5


def test_variables_of_keras_3_are_named_by_layer_and_number(h5):
    same(read_foreign(h5), {"conv1_conv/0": KERNEL, "conv1_conv/1": BIAS})


def test_layers_without_names_are_named_by_their_group(h5):
    with h5py.File(h5, "r+") as file:
        del file["layers/conv2d/vars"].attrs["name"]
        file.move("layers", "_layer_checkpoint_dependencies")
    start = "_layer_checkpoint_dependencies/conv2d"
    same(read_foreign(h5), {f"{start}/0": KERNEL, f"{start}/1": BIAS})


def test_optimizers_and_seeds_are_no_weights(h5):
    with h5py.File(h5, "r+") as file:
        file["optimizer/vars/0"] = 7
        file["layers/dropout/seed_generator/vars/0"] = np.array([1, 2], np.uint32)
    assert read_foreign(h5).keys() == {"conv1_conv/0", "conv1_conv/1"}


def test_bfloat16_of_keras_is_read(tmp_path):
    with keras.device("cpu"):
        layer = keras.layers.Conv2D(2, 3, dtype="bfloat16", name="conv1_conv")
        model = keras.Sequential([keras.Input((8, 8, 2)), layer])
    model.save_weights(tmp_path / "w.weights.h5")
    kernel = np.asarray(layer.kernel).astype(np.float32)
    np.testing.assert_array_equal(read_foreign(tmp_path / "w.weights.h5")["conv1_conv/0"], kernel)


def _link_soft(file):
    file["layers/conv2d_1"] = h5py.SoftLink("/layers/conv2d")


def _link_external(file):
    file["layers/conv2d_1"] = h5py.ExternalLink("/etc/passwd", "/")


def _external(file):
    file.create_dataset("layers/a/vars/0", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def _virtual(file):
    layout = h5py.VirtualLayout((3, 3, 2, 2), "f4")
    layout[...] = h5py.VirtualSource(file["layers/conv2d/vars/0"])
    file.create_virtual_dataset("layers/a/vars/0", layout)


def _compressed(file):
    file.create_dataset("layers/a/vars/0", data=np.zeros(2**20), compression="gzip")


def _chunked(file):
    file.create_dataset("layers/a/vars/0", (2**40,), "f4", chunks=(2**20,))


def _claimed(file):
    file.create_dataset("layers/a/vars/0", (2**40,), "f4")


def _circle(file):
    file["layers/conv2d/again"] = file["layers"]


def _twice(file):
    file["layers/other/vars/0"] = file["layers/conv2d/vars/0"]


def _same_name(file):
    group = file.create_group("layers/conv2d_1/vars")
    group.attrs["name"] = "conv1_conv"
    group["0"] = KERNEL


def _texts(file):
    file["layers/a/vars/0"] = "text"


def _nothing(file):
    file["layers/a/vars/0"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_link_soft, "the link layers/conv2d_1 to another place"),
        (_link_external, "the link layers/conv2d_1 to another place"),
        (_external, "compressed, virtual or external array /layers/a/vars/0"),
        (_virtual, "compressed, virtual or external array /layers/a/vars/0"),
        (_compressed, "compressed, virtual or external array /layers/a/vars/0"),
        (_chunked, "compressed, virtual or external array /layers/a/vars/0"),
        (_claimed, r"fewer bytes for /layers/a/vars/0 than its shape \(1099511627776,\) needs"),
        (_circle, "holds the object layers/conv2d/again twice"),
        (_twice, "holds the object layers/other/vars/0 twice"),
        (_same_name, "two arrays under the name conv1_conv/0"),
        (_texts, "no array of numbers"),
        (_nothing, "no array of numbers"),
    ],
)
def test_what_is_no_plain_array_is_refused(h5, change, message):
    with h5py.File(h5, "r+") as file:
        change(file)
    refused(h5, message)


def test_file_that_brings_down_the_library_is_refused(h5):
    data = bytearray(h5.read_bytes())
    # The type of the attribute "name": HDF5 1.14 then follows a pointer that is none.
    data[data.index(b"name\0") + 9] ^= 0xFF
    h5.write_bytes(data)
    refused(h5, "is damaged: its reader ended with -11")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_truncated_h5_is_damaged(tmp_path, share):
    path = write_h5(tmp_path / "w.h5", np.ones((3, 3, 64, 64), np.float32))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "damaged or truncated")


@given(at=st.integers(0, 10**6), mask=st.integers(1, 255))
@settings(max_examples=15, deadline=None)
def test_no_byte_of_an_h5_file_leads_to_anything_but_a_sentence(tmp_path_factory, at, mask):
    path = write_h5(tmp_path_factory.mktemp("flip") / "w.h5")
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= mask
    path.write_bytes(data)
    with contextlib.suppress(WeightsError):
        assert all(array.dtype == np.float32 for array in read_foreign(path).values())


# Archives of Keras


@pytest.fixture
def archive(tmp_path):
    """Returns an archive whose model makes a folder when it is built."""
    target = tmp_path / "it_ran"
    code = f"lambda x: __import__('os').makedirs({str(target)!r}, exist_ok=True) or x"
    layer = keras.layers.Lambda(eval(code))
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), keras.layers.Conv2D(2, 3, name="conv1_conv"), layer]
    )
    target.rmdir()
    model.save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


def test_archive_is_refused_unless_insisted_on(archive):
    refused(archive, r"can hold code .* `model\.save_weights`.*`allow_keras=True`")
    found = read_foreign(archive, allow_keras=True)
    assert found.keys() == {"conv1_conv/0", "conv1_conv/1"}
    assert not archive.with_name("it_ran").exists()


def test_archive_without_its_ending_is_refused_too(archive):
    path = archive.rename(archive.with_suffix(".download"))
    refused(path, "can hold code")
    assert len(read_foreign(path, allow_keras=True)) == 2


def _rewritten(archive, names, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(archive) as old:
        contents = {name: old.read(name) for name in names}
    with zipfile.ZipFile(archive, "w", compression) as new:
        for name, content in contents.items():
            new.writestr(name, content)


def test_archive_without_weights_is_refused(archive):
    _rewritten(archive, ["config.json"])
    refused(archive, "has no model.weights.h5", allow_keras=True)


def test_compressed_archive_is_refused(archive):
    _rewritten(archive, ["config.json", "model.weights.h5"], zipfile.ZIP_DEFLATED)
    refused(archive, "compresses its model.weights.h5", allow_keras=True)


def test_damaged_archive_is_refused(archive):
    data = bytearray(archive.read_bytes())
    data[data.index(b"\x89HDF") + 200] ^= 1
    archive.write_bytes(data)
    refused(archive, "damaged: Bad CRC-32", allow_keras=True)
    archive.write_bytes(data[: len(data) // 2])
    refused(archive, "damaged: File is not a zip file", allow_keras=True)


# Any ending

ENDINGS = ["safetensors", "h5", "weights.h5", "hdf5", "keras", "pth", "pt", "bin", "download"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89PNG\r\n", "a PNG picture"),
    ],
)
def test_what_no_weights_file_can_be_is_named(tmp_path, ending, data, message):
    path = tmp_path / f"w.{ending}"
    path.write_bytes(data)
    refused(path, message)


@pytest.mark.parametrize(
    ("ending", "data", "message"),
    [
        ("safetensors", b"\x89HDF\r\n\x1a\n" + bytes(99), "no weights file but an HDF5 file"),
        ("pth", b"\x89HDF\r\n\x1a\n" + bytes(99), "no weights file but an HDF5 file"),
        ("h5", b"PK\x03\x04" + bytes(99), "no weights file but a zip archive"),
        ("h5", b"\x80\x02}q\x00.", "no weights file but a Python pickle"),
        ("keras", b"\x80\x02}q\x00.", "no weights file but a Python pickle"),
        ("h5", struct.pack("<Q", 2) + b"{}", r"does not begin as \.h5 files do"),
        ("pth", bytes(99), r"does not begin as \.pth files do"),
        ("h5", bytes(99), r"does not begin as \.h5 files do"),
    ],
)
def test_ending_that_the_content_contradicts_is_refused(tmp_path, ending, data, message):
    path = tmp_path / f"w.{ending}"
    path.write_bytes(data)
    refused(path, message)


# torch


@pytest.mark.skipif(TORCH, reason="torch is installed")
def test_checkpoint_without_torch_is_answered_with_the_command(tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    refused(
        path, r'torch, which has to read it, is not installed: pip install "resnet_keras\[torch'
    )


def test_old_torch_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "torch-2.9.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1\n")
    monkeypatch.syspath_prepend(folder.parent)
    path = tmp_path / "m.pth"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    refused(path, r"could run code in torch 2\.9\.1; 2\.10 or newer is needed")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_checkpoints_are_read_however_they_are_nested(torch, tmp_path):
    tensors = {"conv1.weight": torch.tensor(KERNEL), "bn1.num_batches_tracked": torch.tensor(3)}
    for name, nested in {
        "a.pth": tensors,
        "b.pt": {"state_dict": tensors, "epoch": 3},
        "c.bin": {"model": {"state_dict": tensors}, "lr": 0.1},
    }.items():
        torch.save(nested, tmp_path / name)
        same(read_foreign(tmp_path / name), {"conv1.weight": KERNEL})
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same(read_foreign(tmp_path / "old.pth"), {"conv1.weight": KERNEL})


def test_types_of_torch_are_converted(torch, tmp_path):
    torch.save({"a": torch.tensor(BIAS).bfloat16()}, tmp_path / "m.pth")
    same(read_foreign(tmp_path / "m.pth"), {"a": BIAS})


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(torch, tmp_path, zipped):
    target = tmp_path / "it_ran"
    code = Malicious(str(target))
    torch.save({"a": code}, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "m.pth", "holds more than tensors, which could run code")
    assert not target.exists()


def test_plain_pickle_is_not_run(torch, tmp_path):
    target = tmp_path / "it_ran"
    path = tmp_path / "m.pth"
    path.write_bytes(pickle.dumps({"a": Malicious(str(target))}, protocol=2))
    refused(path, "holds more than tensors|could not be read")
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds list instead of tensors"),
        ({"epoch": 3, "best": 0.5}, "no tensors: best, epoch"),
    ],
)
def test_checkpoint_of_other_things_is_refused(torch, tmp_path, content, message):
    torch.save(content, tmp_path / "m.pth")
    refused(tmp_path / "m.pth", message)


def test_tensor_larger_than_its_file_is_refused(torch, tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "m.pth")
    refused(tmp_path / "m.pth", "claims larger tensors than the file holds")


def test_compressed_checkpoint_is_refused(torch, tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "m.pth") as old:
        contents = {name: old.read(name) for name in old.namelist()}
    _write_deflated(tmp_path / "m.pth", contents)
    refused(tmp_path / "m.pth", "claims to hold")


def _write_deflated(path, contents):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in contents.items():
            new.writestr(name, data)
    path.write_bytes(content.getvalue())


def test_truncated_checkpoint_is_a_sentence(torch, tmp_path):
    torch.save({"a": torch.zeros(10**4)}, tmp_path / "m.pth")
    data = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "m.pth", "could not be read|damaged|holds more than")
