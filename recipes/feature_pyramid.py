"""A small feature pyramid network on a frozen ResNet, trained to outline discs in clutter.

    python -m recipes.feature_pyramid discs.png

`feature_pyramid` gives the features of four stages; lateral 1x1 convolutions and a top-down path
(Lin et al. 2016, arXiv 1612.03144) make them levels of one width, which a detector or a segmenter
reads. Here each pixel is told apart: disc or not. Measured with the command above: intersection
over union 0.889 on 32 pictures it has not seen, after 12 epochs of 192. The file that is named
shows what it sees and says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

from resnet_keras import build_resnet, feature_pyramid, freeze


def add_fpn(pyramid: keras.Model, channels: int = 64) -> keras.Model:
    """Returns the model from pixels to levels P2 to P5, each of so many channels."""
    levels, above = {}, None
    for name, features in sorted(pyramid.output.items(), reverse=True):
        x = keras.layers.Conv2D(channels, 1, name=f"lateral_{name}")(features)
        x = (
            x
            if above is None
            else x + keras.layers.UpSampling2D(2, name=f"from_above_{name}")(above)
        )
        above = x
        level = f"P{name[1:]}"
        levels[level] = keras.layers.Conv2D(channels, 3, padding="same", name=level)(x)
    return keras.Model(pyramid.input, levels)


def add_mask(fpn: keras.Model) -> keras.Model:
    """Returns the model from pixels to one logit a pixel, at the size of the picture."""
    scales = {name: 2**index for index, name in enumerate(sorted(fpn.output))}
    upscaled = [
        keras.layers.UpSampling2D(scale, interpolation="bilinear")(fpn.output[name])
        for name, scale in scales.items()
    ]
    x = keras.layers.ReLU()(keras.layers.Add()(upscaled))
    x = keras.layers.Conv2D(1, 1, name="mask_logits")(x)
    return keras.Model(fpn.input, keras.layers.UpSampling2D(4, interpolation="bilinear")(x))


def discs(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns cluttered pictures and the masks of their discs."""
    rng = np.random.default_rng(seed)
    pictures = rng.uniform(0, 255, (count, size // 8, size // 8, 3)).repeat(8, 1).repeat(8, 2)
    masks = np.zeros((count, size, size, 1), "float32")
    rows, columns = np.mgrid[:size, :size]
    for picture, mask in zip(pictures, masks, strict=True):
        for _ in range(3):
            radius = rng.uniform(0.08, 0.2) * size
            y, x = rng.uniform(0.2, 0.8, 2) * size
            mask[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
        picture[mask[..., 0] > 0] = rng.uniform(0, 255, 3)
    return (pictures + rng.normal(0, 12, pictures.shape)).clip(0, 255).astype("float32"), masks


def main(
    picture: Path | None = None, *, size: int = 128, train: int = 192, epochs: int = 12
) -> float:
    """Returns the intersection over union of the discs in pictures it has not seen."""
    keras.utils.set_random_seed(0)
    backbone = build_resnet(weights="open_nsfw", num_classes=None)
    freeze(backbone, through="stage4")
    model = add_mask(add_fpn(feature_pyramid(backbone)))
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(*discs(train, size, seed=0), batch_size=16, epochs=epochs, verbose=2)
    pixels, masks = discs(32, size, seed=1)
    found = model.predict(pixels, verbose=0) > 0
    overlap = float((found & (masks > 0)).sum() / (found | (masks > 0)).sum())
    print(f"intersection over union {overlap:.3f}")
    if picture:
        rows = {"picture": pixels.astype("uint8"), "discs": masks, "found": found}
        _draw(picture, rows)
    return overlap


def _draw(path: Path, rows: dict[str, np.ndarray]) -> None:
    figure = Figure(figsize=(9, 7), layout="constrained")
    for axes, (title, images) in zip(figure.subplots(3, 4), rows.items(), strict=True):
        for axis, image in zip(axes, images[:4], strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a small FPN to outline discs.")
    parser.add_argument("picture", type=Path, nargs="?")
    main(parser.parse_args().picture)
