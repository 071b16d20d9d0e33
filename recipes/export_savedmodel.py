"""Exports a fine-tuned run as a SavedModel and asks it about a picture, without Keras.

    python -m recipes.export_savedmodel runs/photos models/photos photo.jpg

The SavedModel takes the bytes of a picture file: decoding, resizing and cropping are in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tensorflow as tf

from resnet_keras import build_resnet, export_model


def main(run_dir: Path, output: Path, picture: Path) -> str:
    """Returns the label that the SavedModel gives the picture."""
    folder = export_model(build_resnet(weights=run_dir), output)
    served = tf.saved_model.load(str(folder))
    answer = served.signatures["serve_bytes"](image_bytes=tf.constant([picture.read_bytes()]))
    label = str(answer["label"][0].numpy().decode())
    print(f"{folder}: {picture.name} is {label} ({tf.reduce_max(answer['probabilities']):.1%})")
    return label


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Exports a run and classifies a picture.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    main(arguments.run_dir, arguments.output, arguments.picture)
