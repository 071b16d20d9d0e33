r"""Fine-tunes on the cores of a TPU, in bfloat16, with shapes that never change.

    python -m recipes.tpu photos/                        # TensorFlow, in its build for TPUs
    KERAS_BACKEND=jax python -m recipes.tpu photos/      # JAX for TPUs

No TPU was at hand, so neither command has run on one. What a TPU needs was tried on a CPU: steps
that XLA compiles, static shapes, and one batch shared by eight devices. To try it like that:

    python -m recipes.tpu photos/ --strategy auto        # one device of TensorFlow
    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        KERAS_BACKEND=jax python -m recipes.tpu photos/ --strategy auto
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras

from resnet_keras import (
    Phase,
    build_resnet,
    fine_tune,
    get_strategy,
    load_images,
    weights_info,
)

# A TPU works on tiles of 8 by 128 numbers: a share of 8, 16, 24, ... pictures fills them.
TILE = 8


def count_cores(strategy: Any) -> int:
    """Returns how many devices share a batch."""
    if isinstance(strategy, keras.distribution.DataParallel):  # on JAX
        return int(strategy.num_model_replicas)
    return int(strategy.num_replicas_in_sync)


def main(
    source: str | Path,
    *,
    strategy: Any = "tpu",
    precision: Any = "auto",
    image_size: int = 224,
    batch_per_core: int = 32,
    epochs: int = 5,
    run_dir: Path = Path("runs/tpu"),
) -> list[dict[str, Any]]:
    """Returns the history."""
    if batch_per_core % TILE:
        raise ValueError(f"`batch_per_core` must be a multiple of 8. Received: {batch_per_core}")
    devices = get_strategy(strategy)
    keras.utils.set_random_seed(0)
    cores = count_cores(devices)
    data = load_images(
        source,
        recipe=weights_info("open_nsfw").record.recipe,
        image_size=image_size,
        batch_size=cores * batch_per_core,
        strategy=devices,
    )
    result = fine_tune(
        build_resnet(weights="open_nsfw", num_classes=len(data.class_names)),
        data,
        run_dir=run_dir,
        # The rates are meant for 32 pictures a step: more of them take larger steps.
        phases=[Phase(start, epochs=epochs, reference_batch=32) for start in ("head", "stage4")],
        strategy=devices,
        precision=precision,  # "auto" is bfloat16 on a TPU
        drop_remainder=True,  # XLA compiles each shape anew, and a short batch is another shape
        # Several TPU cores compile what they run by themselves.
        jit_compile=None if cores > 1 else True,
        resume=True,
    )
    print(f"{cores} devices, {cores * batch_per_core} pictures a step")
    for row in result.history:
        shown = (name for name in ("loss", "val_loss", "val_accuracy") if name in row)
        figures = (f"{name} {row[name]:.6f}" for name in shown)
        print(f"{row['phase']} {row['epoch']}", *figures, sep="  ")
    return result.history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fine-tunes on a TPU.")
    parser.add_argument("source", help="folder of pictures, or tfds:NAME")
    parser.add_argument("--strategy", default="tpu", choices=["tpu", "auto"])
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-per-core", type=int, default=32, help="a multiple of 8")
    parser.add_argument("--epochs", type=int, default=5, help="of the head, and then of stage 4")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/tpu"))
    main(**vars(parser.parse_args()))
