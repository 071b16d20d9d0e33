"""A step on JAX: the usual gradients, and the same bits however many devices share the batch."""

import os
import subprocess
import sys

import numpy as np
import pytest


def steps(folder, network, *kinds):
    """Returns what each kind of step takes from each weight."""
    path = folder / "steps.npz"
    command = [sys.executable, "-m", "tests.jax_step_child", network, str(path), *kinds]
    flags = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {kind: {} for kind in kinds}
    with np.load(path) as values:
        for name, value in values.items():
            kind, variable = name.split("/", 1)
            found[kind][variable] = value
    return found.values()


def test_its_gradients_are_the_usual_ones(tmp_path):
    usual, *taken = steps(tmp_path, "varied", "usual", "1", "8")
    for name, expected in usual.items():
        scale = np.abs(expected).max()
        assert scale > 1e-4, name
        for found in taken:
            # What is taken from a weight of 1 is known to 1e-7.
            tolerance = 1e-5 * scale + 1e-7
            np.testing.assert_allclose(found[name], expected, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "devices", [("1", "8"), pytest.param(("1", "2", "4"), marks=pytest.mark.slow)]
)
def test_it_is_the_same_to_the_bit_on_several_devices(tmp_path, devices):
    one, *others = steps(tmp_path, "resnet", *devices)
    for name, expected in one.items():
        assert np.abs(expected).max() > 1e-3, name
        for found in others:
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
