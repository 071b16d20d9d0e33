"""Precision by hardware, and models that compute in it for a while."""

import pathlib

import keras
import numpy as np
import pytest

from resnet_keras.builder import build_resnet
from resnet_keras.precision import choose_precision, compute_dtype, computing_in


def with_flags(monkeypatch, flags):
    """Lets the machine have a processor with these instructions."""
    read = pathlib.Path.read_text

    def read_text(path, *arguments, **options):
        if str(path) == "/proc/cpuinfo":
            return f"processor\t: 0\nflags\t\t: fpu {flags} sse\n"
        return read(path, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)


@pytest.mark.parametrize(
    ("flags", "dtype", "reason"),
    [
        ("avx512f avx512_bf16", "bfloat16", "the CPU has avx512_bf16"),
        ("amx_bf16", "bfloat16", "the CPU has amx_bf16"),
        ("avx512f avx512_vnni", "float32", "neither amx_bf16 nor avx512_bf16"),
        ("", "float32", "neither"),
    ],
)
def test_auto_reads_the_processor_and_says_why(monkeypatch, flags, dtype, reason):
    with_flags(monkeypatch, flags)
    choice = choose_precision("auto")
    assert choice.dtype == dtype
    assert reason in str(choice)


def test_auto_knows_that_the_kernels_can_be_switched_off(monkeypatch):
    with_flags(monkeypatch, "avx512_bf16")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert choose_precision("auto").dtype == "float32"


def test_a_system_without_a_list_of_instructions_gets_float32(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    assert choose_precision("auto").dtype == "float32"


@pytest.mark.parametrize(
    ("capability", "dtype"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32")]
)
def test_auto_asks_the_gpu_before_the_processor(monkeypatch, capability, dtype):
    import tensorflow as tf

    details = {"device_name": "Some GPU", "compute_capability": capability}
    listed = tf.config.list_physical_devices
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: ["gpu"] if kind == "GPU" else listed(kind)
    )
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    choice = choose_precision("auto")
    assert (choice.dtype, "Some GPU" in choice.reason) == (dtype, True)


def test_what_is_asked_for_is_done_and_what_was_built_is_kept(monkeypatch):
    with_flags(monkeypatch, "")
    assert choose_precision("bfloat16").dtype == "bfloat16"
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_resnet(18, num_classes=2, width=0.125)
    finally:
        keras.config.set_dtype_policy("float32")
    assert choose_precision("auto", model).dtype == "bfloat16"
    assert choose_precision("float32", model).dtype == "float32"
    with pytest.raises(ValueError, match="`precision` must be one of"):
        choose_precision("half")


def test_a_model_computes_in_another_precision_for_a_while():
    model = build_resnet(18, num_classes=2, width=0.125)
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3))
    before = np.asarray(model(pictures))
    features = keras.Model(model.input, model.get_layer("stage4_block2_out").output)
    with computing_in(model, "bfloat16"):
        assert compute_dtype(model) == "bfloat16"
        assert keras.backend.standardize_dtype(features(pictures).dtype) == "bfloat16"
        logits = model(pictures)
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        assert {weight.dtype for weight in model.weights} == {"float32"}
    assert compute_dtype(model) == "float32"
    np.testing.assert_array_equal(np.asarray(model(pictures)), before)
