"""Two logical devices of TensorFlow, and eight of JAX, end at the bits of one on solar cells."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def start(folder, backend, batch_norm, devices):
    folder.mkdir()
    flags = f"--xla_force_host_platform_device_count={devices}" if backend == "jax" else ""
    environment = os.environ | {"KERAS_BACKEND": backend, "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "tests.solar_cells_child", str(folder), batch_norm]
    return subprocess.Popen(
        [*command, str(devices)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process, folder, shared):
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said[-3000:]
    environment = json.loads((folder / "run/environment.json").read_text())
    assert max(environment["replicas"], environment.get("devices", 1)) == shared
    with np.load(folder / "found.npz") as found:
        return dict(found)


@pytest.mark.parametrize("batch_norm", ["frozen", "synchronized"])
@pytest.mark.parametrize(("backend", "devices"), [("tensorflow", 2), ("jax", 8)])
def test_devices_that_share_batches_train_as_one(tmp_path, backend, devices, batch_norm):
    folders = {number: tmp_path / str(number) for number in (1, devices)}
    started = [start(folder, backend, batch_norm, number) for number, folder in folders.items()]
    one, shared = (
        finish(process, folder, number)
        for process, (number, folder) in zip(started, folders.items(), strict=True)
    )
    np.testing.assert_allclose(shared.pop("losses"), one.pop("losses"), rtol=1e-6)
    assert shared.keys() == one.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(shared[name], value, err_msg=name)
    kernel = "stage4_block1_1_conv/kernel"
    assert np.abs(one[f"after/{kernel}"] - one[f"before/{kernel}"]).max() > 1e-3
