"""Pictures of noise: a network takes as long for them as for any others."""

from __future__ import annotations

import numpy as np

CLASSES = 5


def random_pictures(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels, uint8 `(count, size, size, 3)`, and labels `(count,)` of all classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return pixels, np.arange(count) % CLASSES
