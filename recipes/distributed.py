"""Fine-tunes on all devices and processes there are: one CPU, several GPUs, several machines.

    python -m recipes.distributed photos/

The same program runs in each process that TF_CONFIG names; two of them on this machine:

    for index in 0 1; do
      TF_CONFIG='{"cluster": {"worker": ["127.0.0.1:9001", "127.0.0.1:9002"]},
        "task": {"type": "worker", "index": '$index'}}' python -m recipes.distributed photos/ &
    done; wait

`resnet-keras launch --workers 2 -- finetune photos/` does that for the command line; the files in
recipes/cluster do it on clusters.

Measured on two cores in float32 (`TF_ENABLE_ONEDNN_OPTS=0` before the command), with
`tfds:elpv/seed0 --image-size 64 --max-pictures 255 --epochs 2` in the place of photos/: one process
and two print the same losses and validation losses in all four epochs, to the six digits shown (the
last ones 0.491108 and 0.621914). In bfloat16, which has three digits, the last losses are 0.430061
and 0.427949.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras import (
    Phase,
    build_resnet,
    fine_tune,
    get_strategy,
    load_images,
    weights_info,
)


def is_chief(strategy: Any) -> bool:
    """Returns whether this process is the one that writes and speaks for all."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    own = strategy.cluster_resolver
    leads = own.task_id == 0 and "chief" not in own.cluster_spec().jobs
    return own.task_type == "chief" or leads


def fewer(data: Any, count: int) -> Any:
    """Returns at most so many pictures of each part, from its beginning to its end."""
    parts = {name: getattr(data, name) for name in ("train", "val", "test")}
    chosen = {
        name: part.subset(np.linspace(0, len(part) - 1, min(count, len(part))).astype(int))
        for name, part in parts.items()
        if part
    }
    return dataclasses.replace(data, **chosen)


def main(
    source: str | Path,
    *,
    image_size: int = 224,
    batch_size: int = 32,
    epochs: int = 5,
    run_dir: Path = Path("runs/distributed"),
    max_pictures: int | None = None,
) -> list[dict[str, Any]]:
    """Returns the history, which is the same in all processes."""
    strategy = get_strategy()  # first of all: workers can only meet when TensorFlow starts
    keras.utils.set_random_seed(0)
    data: Any = load_images(
        source,
        recipe=weights_info("open_nsfw").record.recipe,
        image_size=image_size,
        batch_size=batch_size,  # of all devices together
        strategy=strategy,  # each process reads the pictures that it trains on
    )
    if max_pictures:
        data = fewer(data, max_pictures)
    result = fine_tune(
        build_resnet(weights="open_nsfw", num_classes=len(data.class_names)),
        data,
        run_dir=run_dir,
        # The rates are meant for 32 pictures a step: more of them take larger steps.
        phases=[Phase(start, epochs=epochs, reference_batch=32) for start in ("head", "stage4")],
        strategy=strategy,
        resume=True,  # if a process was lost, start all of them again
        quiet=not is_chief(strategy),
    )
    if is_chief(strategy):
        for row in result.history:
            figures = (
                f"{k} {row[k]:.6f}" for k in ("loss", "val_loss", "val_accuracy") if k in row
            )
            print(f"{row['phase']} {row['epoch']}", *figures, sep="  ")
    return result.history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fine-tunes on several devices or machines.")
    parser.add_argument("source", help="folder of pictures, or tfds:NAME")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32, help="of all devices together")
    parser.add_argument("--epochs", type=int, default=5, help="of the head, and then of stage 4")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/distributed"))
    parser.add_argument("--max-pictures", type=int, help="of each part, for a quick try")
    main(**vars(parser.parse_args()))
