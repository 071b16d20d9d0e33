"""Fine-tunes a pretrained network on a folder of pictures: the head first, then the last stage.

    python -m recipes.finetune_folder photos/

The folder holds one sub-folder a class, or train/, val/ and test/ with such sub-folders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resnet_keras import Augmentation, Phase, build_resnet, fine_tune, load_images, weights_info


def main(
    photos: Path,
    *,
    weights: str = "open_nsfw",
    image_size: int = 224,
    head_epochs: int = 5,
    epochs: int = 10,
    run_dir: Path = Path("runs/photos"),
) -> float:
    """Returns the accuracy on the test part."""
    data = load_images(
        photos,
        recipe=weights_info(weights).record.recipe,
        image_size=image_size,
        on_bad_image="skip",
    )
    print(data.report)
    result = fine_tune(
        build_resnet(weights=weights, num_classes=len(data.class_names)),
        data,
        run_dir=run_dir,
        # A random head sends large gradients into the backbone, so the head learns first.
        phases=[Phase("head", epochs=head_epochs), Phase("stage4", epochs=epochs)],
        augmentation=Augmentation(flip="horizontal"),
    )
    print(result.test)
    return float(result.test.accuracy) if result.test else float("nan")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fine-tunes on a folder of pictures.")
    parser.add_argument("photos", type=Path)
    main(parser.parse_args().photos)
