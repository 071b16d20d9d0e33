"""Trains nothing but the head: one pass of the pictures, then seconds, and no GPU.

    python -m recipes.linear_probe photos/

The pooled features of every picture are computed once and kept; the epochs that follow cost
next to nothing. It is the first thing to try, and tells how far the weights carry as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from resnet_keras import Augmentation, Phase, build_resnet, fine_tune, load_images, weights_info


def main(
    photos: Path, *, weights: str = "open_nsfw", image_size: int = 224, epochs: int = 30
) -> float:
    """Returns the accuracy on the test part."""
    recipe = weights_info(weights).record.recipe
    data = load_images(photos, recipe=recipe, image_size=image_size, on_bad_image="skip")
    with tempfile.TemporaryDirectory() as folder:
        result = fine_tune(
            build_resnet(weights=weights, num_classes=len(data.class_names)),
            data,
            run_dir=Path(folder) / "probe",
            phases=[Phase("head", epochs=epochs)],
            augmentation=Augmentation(flip="horizontal"),
        )
    print(result.test)
    return float(result.test.accuracy) if result.test else float("nan")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a head on frozen features.")
    parser.add_argument("photos", type=Path)
    main(parser.parse_args().photos)
