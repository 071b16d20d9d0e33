"""A file is read back to the bit, or refused in a sentence that says why."""

import dataclasses
import json
import logging
import os
import struct
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_keras.errors import WeightsError
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import (
    read_tensors,
    read_weights,
    write_tensors,
)

SPEC = ResNetSpec(18, width=0.125)
RECORD = Record(
    spec=SPEC,
    recipe=Recipe(32, 1.0, "bicubic", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    class_names=("cat", "dog", "emu"),
    name="pets",
    source="made for this test",
    licence="Apache-2.0",
)
TENSORS = {
    "stem_conv/kernel": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    "logits/bias": np.array([0.5, -2.0, 3.0], np.float32),
}


def header_of(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path, header, rest):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


@pytest.fixture
def path(tmp_path):
    return write_tensors(tmp_path / "small.safetensors", TENSORS, record=RECORD)


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "f2", ml_dtypes.bfloat16, "i8", "i4", "u4", "u1", "?", ">f4"]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_tensors_of_any_type_and_shape_come_back(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    strided = np.ones((4, 6), np.float32).T[::2]
    path = write_tensors(
        tmp_path / "t", {"optimizer/a": array, "b": strided}, record=RECORD, extra={"epoch": "7"}
    )
    tensors, record, extra = read_tensors(path)
    assert (record, extra) == (RECORD, {"epoch": "7"})
    assert tensors["optimizer/a"].dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(tensors["optimizer/a"], array)
    np.testing.assert_array_equal(tensors["b"], strided)


def test_equal_tensors_give_equal_files(tmp_path):
    turned = dict(reversed(TENSORS.items()))
    first = write_tensors(tmp_path / "a", TENSORS, record=RECORD, extra={"x": "1", "y": "2"})
    second = write_tensors(tmp_path / "b", turned, record=RECORD, extra={"y": "2", "x": "1"})
    assert first.read_bytes() == second.read_bytes()


def test_files_are_ordinary_safetensors(path):
    loaded = safetensors.numpy.load_file(path)
    assert all(np.array_equal(loaded[name], TENSORS[name]) for name in TENSORS)


def test_missing_file_names_its_neighbours(path):
    with pytest.raises(WeightsError, match=r"smal\.safetensors.*Did you mean 'small\.safetensors'"):
        read_weights(path.with_name("smal.safetensors"))


def test_misspelt_registry_name_names_the_right_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="Did you mean 'open_nsfw'"):
        read_weights("open_nfsw")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html><title>Sign in</title>", "web page"),
        (b"\n <HTML>", "web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        (b"PK\x03\x04" + bytes(99), "zip archive"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'{"error": "not found"}', "JSON"),
        (b"abc", "truncated: 3 bytes"),
        (bytes(range(200)), "damaged"),
    ],
)
def test_what_is_no_weights_file_is_named(tmp_path, data, message):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        read_weights(path)


@pytest.mark.parametrize("share", [0.005, 0.2, 0.5, 0.999])
def test_truncated_file_says_how_much_is_there(path, share):
    data = path.read_bytes()
    kept = int(len(data) * share)
    path.write_bytes(data[:kept])
    with pytest.raises(WeightsError, match=rf"truncated: {kept} (of .*)?bytes"):
        read_weights(path)
    if share > 0.99:
        with pytest.raises(WeightsError, match=f"{kept} of {len(data)} bytes"):
            read_weights(path)


def test_folder_without_checkpoints_is_no_weights(tmp_path):
    with pytest.raises(WeightsError, match="folder without checkpoints"):
        read_weights(tmp_path)


def test_file_without_permission_says_so(path):
    path.chmod(0)
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        moved = path.rename(Path(folder) / path.name)
        try:
            # The superuser may read everything, so the test becomes somebody else.
            os.seteuid(65534 if user == 0 else user)
            with pytest.raises(WeightsError, match="permissions"):
                read_weights(moved)
        finally:
            os.seteuid(user)


def test_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="device or pipe"):
        read_weights(tmp_path / "pipe")


def test_dangling_and_looping_links_are_refused(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(WeightsError, match="is no file"):
        read_weights(tmp_path / "gone")
    with pytest.raises(WeightsError, match="loop"):
        read_weights(tmp_path / "loop")


def test_link_to_a_file_is_followed(path, tmp_path):
    (tmp_path / "link.safetensors").symlink_to(path)
    assert read_weights(tmp_path / "link.safetensors").record == RECORD


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return write_tensors(tmp_path_factory.mktemp("i") / "intact", TENSORS, record=RECORD)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_no_byte_can_change_unnoticed(intact, path, mask):
    data = intact.read_bytes()
    assert [
        at for at in range(len(data)) if _is_read_when_flipped(data, path, at=at, mask=mask)
    ] == []


@given(at=st.integers(0, 10**6), mask=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_no_byte_can_change_to_anything_else(intact, at, mask):
    data = intact.read_bytes()
    target = intact.with_name("altered")
    assert not _is_read_when_flipped(data, target, at=at % len(data), mask=mask)


def _is_read_when_flipped(data, path, *, at, mask):
    path.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
    try:
        tensors, record, extra = read_tensors(path)
    except WeightsError:
        return False
    same = all(np.array_equal(tensors[name], TENSORS[name]) for name in TENSORS)
    # A blank between the header and the tensors may become another blank: it carries nothing.
    return not (same and record == RECORD and extra == {} and data[at : at + 1] == b" ")


def _entry(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


BOMBS = {
    "huge shape": {"a": _entry(shape=[2**40, 2**20])},
    "overflowing shape": {"a": _entry(shape=[2**63, 2])},
    "negative shape": {"a": _entry(shape=[-2])},
    "offsets past the end": {"a": _entry(data_offsets=[0, 2**50], shape=[2**48])},
    "reversed offsets": {"a": _entry(data_offsets=[8, 0])},
    "overlap": {"a": _entry(), "b": _entry(data_offsets=[4, 12])},
    "hole": {"a": _entry(), "b": _entry(data_offsets=[16, 24])},
    "unknown type": {"a": _entry(dtype="F999")},
    "wrong size of type": {"a": _entry(dtype="F64")},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "a list": ["a"],
    "a number as entry": {"a": 5},
    "metadata of numbers": {"__metadata__": {"format": 1}, "a": _entry()},
    "deep nesting": {"a": [[[[[[[[[[]]]]]]]]]]},
}


@pytest.mark.parametrize("case", BOMBS)
def test_header_bombs_are_refused(tmp_path, case):
    path = tmp_path / "bomb.safetensors"
    with_header(path, BOMBS[case], bytes(24))
    with pytest.raises(WeightsError, match="bomb"):
        read_weights(path)


def test_header_length_beyond_the_file_is_refused(tmp_path):
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{" + bytes(64))
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(path)


def test_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    with pytest.raises(WeightsError, match="another program"):
        read_weights(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", "2", "update resnet_keras"),
        ("record", "{}", "sha256 of its metadata"),
        ("sha256", "{}", "sha256 of its metadata"),
    ],
)
def test_changed_metadata_are_refused(path, key, value, *, message):
    header, rest = header_of(path)
    header["__metadata__"][key] = value
    with_header(path, header, rest)
    with pytest.raises(WeightsError, match=message):
        read_weights(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_unless_asked_for(tmp_path, bad):
    tensors = {**TENSORS, "logits/bias": np.array([0, bad, 1], np.float32)}
    path = write_tensors(tmp_path / "w.safetensors", tensors, record=RECORD)
    with pytest.raises(WeightsError, match=r"not finite.*logits/bias"):
        read_weights(path)
    read = read_weights(path, allow_nonfinite=True).tensors["logits/bias"]
    np.testing.assert_array_equal(read, tensors["logits/bias"])


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_other_floats_are_converted_and_said_to_be(tmp_path, caplog, dtype):
    tensors = {name: array.astype(dtype) for name, array in TENSORS.items()}
    path = write_tensors(tmp_path / "w.safetensors", tensors, record=RECORD)
    with caplog.at_level(logging.WARNING, "resnet_keras"):
        read = read_weights(path).tensors
    assert np.dtype(dtype).name in caplog.text
    assert all(array.dtype == np.float32 for array in read.values())
    assert all(np.array_equal(read[name], tensors[name].astype(np.float32)) for name in tensors)


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool"])
def test_whole_numbers_are_no_weights(tmp_path, dtype):
    tensors = {**TENSORS, "logits/bias": np.ones(3, dtype)}
    path = write_tensors(tmp_path / "w.safetensors", tensors, record=RECORD)
    with pytest.raises(WeightsError, match=r"whole numbers.*logits/bias"):
        read_weights(path)


# A run that dies while its last checkpoint makes room has the one before and, early on, no best.
@pytest.mark.parametrize("names", [["best", "last"], ["last", "previous"], ["previous"]])
def test_run_folder_gives_the_best_checkpoint_or_the_newest(tmp_path, names):
    for name in names:
        tensors = {f"model/{key}": array for key, array in TENSORS.items()}
        tensors["optimizer/step"] = np.array(3)
        record = dataclasses.replace(RECORD, name=name)
        write_tensors(tmp_path / f"checkpoints/{name}.safetensors", tensors, record=record)
    read = read_weights(tmp_path)
    assert read.record.name == names[0]
    assert read.tensors.keys() == TENSORS.keys()


def test_folder_in_place_of_the_file_is_a_sentence(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(WeightsError, match="taken could not be written"):
        write_tensors(tmp_path / "taken", TENSORS, record=RECORD)
