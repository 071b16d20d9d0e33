"""Pictures made up for the tests: class trees that a network can learn, without any download."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def make_picture(index: int, *, size: int = 40, seed: int = 0) -> np.ndarray:
    """Returns one picture of class `index`: its own colour and stripes, plus noise; uint8 RGB."""
    rng = np.random.default_rng([seed, index])
    rows, columns = np.mgrid[:size, :size]
    angle = 0.9 * index
    wave = np.sin((rows * np.cos(angle) + columns * np.sin(angle)) * (0.35 + 0.2 * index))
    colour = 127 + 90 * np.cos(2.1 * index + np.array([0.0, 2.1, 4.2]))
    noise = rng.normal(0, 12, (size, size, 3))
    return np.clip(colour + 40 * wave[..., None] + noise, 0, 255).astype(np.uint8)


def make_arrays(classes: int = 3, *, count: int = 8, size: int = 40, seed: int = 0):
    """Returns (pictures, labels): `count` pictures of each class, uint8 and int64."""
    labels = np.repeat(np.arange(classes), count)
    pictures = [
        make_picture(label, size=size, seed=seed + 1000 * number)
        for number, label in enumerate(labels)
    ]
    return np.stack(pictures), labels


def make_tree(
    root: Path,
    classes: Sequence[str] = ("ash", "birch", "cedar"),
    *,
    count: int = 8,
    size: int = 40,
    seed: int = 0,
) -> Path:
    """Writes `root/CLASS/NNN.png`, `count` pictures a class, and returns `root`."""
    pictures, labels = make_arrays(len(classes), count=count, size=size, seed=seed)
    for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = Path(root) / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number % count:03d}.png")
    return Path(root)


def make_split_tree(
    root: Path,
    classes: Sequence[str] = ("ash", "birch", "cedar"),
    *,
    counts: Sequence[int] = (6, 3, 3),
    size: int = 40,
) -> Path:
    """Writes `root/train`, `root/val` and `root/test`, each a class tree, and returns `root`."""
    for seed, (part, count) in enumerate(zip(("train", "val", "test"), counts, strict=True)):
        make_tree(Path(root) / part, classes, count=count, size=size, seed=seed)
    return Path(root)


def break_files(root: Path, *, share: float = 0.1, seed: int = 0) -> list[Path]:
    """Damages a share of each class's pictures, each in another way, and returns their paths."""
    damages = (
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"this is no picture\n",
        lambda data: b"<!DOCTYPE html><html><body>404</body></html>",
    )
    rng = np.random.default_rng(seed)
    broken: list[Path] = []
    for folder in sorted(path for path in Path(root).iterdir() if path.is_dir()):
        files = sorted(folder.glob("*.png"))
        for index in rng.choice(len(files), max(1, round(share * len(files))), replace=False):
            damage = damages[len(broken) % len(damages)]
            files[index].write_bytes(damage(files[index].read_bytes()))
            broken.append(files[index])
    return broken
