"""The architecture table: what depths, stems and blocks there are; standard library only."""

from __future__ import annotations

from typing import Literal

Block = Literal["basic", "bottleneck"]
Variant = Literal["v1", "v1.5", "v2", "d", "v2d"]
Shortcut = Literal["A", "B", "stage", "C", "none"]
Stem = Literal["imagenet", "cifar"]
Pooling = Literal["avg", "max", "both"]
Normalization = Literal["none", "batch", "layer"]
Activation = Literal["relu", "gelu", "silu"]
ConvRole = Literal["stem", "shortcut", "inner", "last"]
PoolPadding = Literal["symmetric", "zeros", "same"]
StrideBlock = Literal["first", "last"]

# depth -> block and blocks per stage: He et al. 2015, arXiv 1512.03385, table 1; 200: He et al.
# 2016, arXiv 1603.05027, section 4.
DEPTHS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
# stem -> its filters, its stride, and the widths of the stages: table 1 and section 4.2.
STEMS: dict[Stem, tuple[int, int, tuple[int, ...]]] = {
    "imagenet": (64, 4, (64, 128, 256, 512)),
    "cifar": (16, 1, (16, 32, 64)),
}
EXPANSION: dict[Block, int] = {"basic": 1, "bottleneck": 4}
# Weighted layers that one block in each of the three CIFAR stages adds: 6n + 2 and 9n + 2.
CIFAR_STEP: dict[Block, int] = {"basic": 6, "bottleneck": 9}
OUTPUT_STRIDES = (32, 16, 8)
