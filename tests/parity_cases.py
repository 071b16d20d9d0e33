"""The networks that are compared with timm, and weights that follow from names alone.

Both sides make the same weights from the name and the shape of each tensor, so that none have to
be kept. Standard library and numpy only: the side of torch has no Keras.
"""

import zlib

import numpy as np

CLASSES = 10
SIZES = (224, 64, 65)

# Name in timm -> spec.
CASES = {
    "resnet18": {"depth": 18},
    "resnet34": {"depth": 34},
    "resnet50": {"depth": 50},
    "resnet101": {"depth": 101},
    "resnet152": {"depth": 152},
    "resnet18d": {"depth": 18, "variant": "d"},
    "resnet50d": {"depth": 50, "variant": "d"},
    "resnext50_32x4d": {"depth": 50, "groups": 32, "width_per_group": 4},
    "wide_resnet50_2": {"depth": 50, "width_per_group": 128},
    "resnetv2_18": {"depth": 18, "variant": "v2"},
    "resnetv2_50": {"depth": 50, "variant": "v2"},
    "resnetv2_18d": {"depth": 18, "variant": "v2d"},
}
# timm counts what it pads to the average pools of its dilated "d" networks: they are left out.
STRIDES = {"resnet50": (16, 8), "resnetv2_18": (16, 8)}


def images(size, count=2):
    """Returns normalised pictures, `(count, size, size, 3)`, that are smooth in parts."""
    rng = np.random.default_rng(size)
    waves = rng.uniform(0, 0.4, (count, 2, 1, 1, 3))
    rows, columns = np.mgrid[:size, :size][..., None].astype(np.float64)
    smooth = np.sin(
        waves[:, 0] * rows + waves[:, 1] * columns + rng.uniform(0, 6, (count, 1, 1, 3))
    )
    return (smooth + rng.normal(0, 0.5, smooth.shape)).astype(np.float32)


def values(name, shape, branch_end):
    """Returns the values of a variable of ours, such as "stage3_block1_2_bn/gamma".

    Kernels keep the size of the features and statistics are near what the features have. What
    ends a branch is small, so that the sum of many blocks stays of that size too.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rpartition("/")[2]
    if kind == "kernel":
        gain = 1 if name.startswith("logits") else 2
        array = rng.normal(0, (gain / np.prod(shape[:-1])) ** 0.5, shape)
    elif kind in ("gamma", "moving_variance"):
        array = rng.uniform(0.6, 1.4, shape)
    else:
        array = rng.normal(0, 0.2, shape)
    return (array * (0.3 if name.endswith(branch_end) else 1)).astype(np.float32)


def branch_end(case):
    """Returns how the name ends of what scales the end of each branch."""
    number = 2 if case["depth"] < 50 else 3
    norm = not case.get("variant", "").startswith("v2")
    return f"_{number}_bn/gamma" if norm else f"_{number}_conv/kernel"
