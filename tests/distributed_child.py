"""A run in a process of its own: python -m tests.distributed_child KIND FOLDER OPTIONS

KIND is "one", "mirrored" (over two logical devices, or as many as OPTIONS says), "scoped" (the
same, but only as the scope in which everything is called), "multiworker" (as TF_CONFIG says; the
model is made in the scope) or "apart" (the same without memory that processes share); OPTIONS is
JSON for `make_run`.
The model's weights and the history go to FOLDER/KIND-INDEX.npz.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_keras.distribution.strategies import get_strategy

NAMES = {
    "one": "none",
    "mirrored": "mirrored",
    "multiworker": "multiworker",
    "apart": "multiworker",
}


def make_strategy(kind, devices):
    if kind in ("mirrored", "scoped"):
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, logical)
    if kind == "scoped":
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if kind == "apart":
        del os.memfd_create  # which Linux alone has
    return get_strategy(NAMES[kind], join_seconds=60)


def pretend_pretraining(model, rng):
    """Moves the statistics of batch norm, so that a run begins with those of its own pictures."""
    for layer in model.layers:
        if hasattr(layer, "moving_mean"):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.1, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, shape))


def make_run(
    folder,
    strategy,
    *,
    batch_norm="frozen",
    epochs=1,
    live=False,
    resume=False,
    jit_compile=None,
    in_scope=False,
    precision="auto",
    **phase,
):
    import keras

    from resnet_keras import Augmentation, Phase, build_resnet, fine_tune, load_images

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 121)
    pictures = rng.integers(0, 255, (121, 32, 32, 3), np.uint8)
    pictures[labels == 1, :, :, 0] //= 2
    pictures[labels == 2, :, :, 1] //= 2
    data = load_images(pictures, labels=labels, image_size=32, batch_size=32, strategy=strategy)
    with strategy.scope() if in_scope else contextlib.nullcontext():
        model = build_resnet(18, num_classes=3, width=0.25)
        pretend_pretraining(model, rng)
    frozen = {
        weight.path: np.array(weight)
        for layer in model.layers
        if not live and layer.name.startswith(("stem", "stage1", "stage2", "stage3"))
        for weight in layer.weights
    }
    start = "all" if live else "stage4"
    phases = [
        Phase("head", epochs=epochs, learning_rate=0.01),
        Phase(start, epochs=epochs, batch_norm=batch_norm, **phase),
    ]
    result = fine_tune(
        model, data, run_dir=folder, phases=phases, strategy=strategy or "auto", resume=resume,
        jit_compile=jit_compile, precision=precision, quiet=True,
        augmentation=Augmentation(rotation=5, brightness=0.1), views=2,
    )  # fmt: skip
    weights = {weight.path: np.array(weight) for weight in result.model.weights}
    moved = [name for name in frozen if not np.array_equal(frozen[name], weights[name])]
    return result, weights, moved


def main(kind, folder, options):
    options = json.loads(options)
    strategy = make_strategy(kind, options.pop("devices", 2))
    task = json.loads(os.environ.get("TF_CONFIG") or "{}").get("task", {})
    run = Path(folder) / kind
    run.parent.mkdir(parents=True, exist_ok=True)
    if kind == "scoped":
        with strategy.scope():
            result, weights, moved = make_run(run, None, **options)
    else:
        in_scope = kind == "multiworker"
        result, weights, moved = make_run(run, strategy, in_scope=in_scope, **options)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]
    np.savez(
        Path(folder) / f"{kind}-{task.get('index', 0)}.npz",
        history=json.dumps(rows),
        moved=json.dumps(moved),
        test=result.test.probabilities,
        **{name.replace("/", "|"): value for name, value in weights.items()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
