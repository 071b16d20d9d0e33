"""The table of stages: stride, shape, parameters, multiply-adds, and what trains."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras

from resnet_keras.layers import functional, record_of
from resnet_keras.stages import PARTS, part_of


@dataclasses.dataclass(frozen=True)
class StageRow:
    """One line of `stage_summary`.

    Args:
        stage: Name of the part.
        stride: Pixels of the picture per step of the output, 0 where there is no map left.
        shape: Shape of the output for one picture.
        parameters: Number of weights, moving statistics included.
        macs: Multiply-adds of the convolutions and the dense layer for one picture.
        state: "frozen", "trainable", or "part" where only some of it trains.
    """

    stage: str
    stride: int
    shape: tuple[int, ...]
    parameters: int
    macs: int
    state: str


class StageSummary(list[StageRow]):
    """The rows of `stage_summary`; printing it shows the table."""

    def __str__(self) -> str:
        lines = [f"{'stage':8}{'stride':>7}{'shape':>16}{'parameters':>13}{'MACs':>15}  state"]
        for row in self:
            shape = " x ".join(map(str, row.shape))
            stride = str(row.stride) if row.stride else "-"
            size = f"{row.parameters:>13,}{row.macs:>15,}"
            lines.append(f"{row.stage:8}{stride:>7}{shape:>16}{size}  {row.state}")
        total = f"{sum(row.parameters for row in self):>13,}{sum(row.macs for row in self):>15,}"
        trained = sum(row.state != "frozen" for row in self)
        lines.append(f"{'total':8}{'':>7}{'':>16}{total}  {trained} of {len(self)} parts train")
        return "\n".join(lines)


def stage_summary(model: keras.Model, image_size: int | None = None) -> StageSummary:
    """Returns stage, output stride, shape, parameters, multiply-adds and state, a row a part.

    Args:
        model: A model of `build_resnet`.
        image_size: Side of the picture, in pixels; that of the model's input or recipe if None.

    Returns:
        The rows; `print` shows them as a table.

    Example:
        >>> model = build_resnet(18, num_classes=1000)
        >>> summary = stage_summary(model, 224)
        >>> print(f"{sum(row.macs for row in summary):,}")
        1,814,073,344
    """
    size = image_size or model.input.shape[1] or record_of(model).recipe.image_size
    weighted = [layer for layer in model.layers if part_of(layer) in PARTS]
    probe = functional(model.input, [layer.output for layer in weighted])
    picture = keras.KerasTensor((1, size, size, model.input.shape[-1]))
    shapes = [tensor.shape for tensor in probe.compute_output_spec(picture)]
    parts: dict[str, list[tuple[Any, tuple[int, ...]]]] = {}
    for layer, shape in zip(weighted, shapes, strict=True):
        parts.setdefault(part_of(layer), []).append((layer, shape))
    return StageSummary(_row(part, layers, size) for part, layers in parts.items())


def _row(part: str, layers: list[tuple[Any, tuple[int, ...]]], size: int) -> StageRow:
    *_, (_, last) = layers
    trains = {layer.trainable for layer, _ in layers if layer.weights}
    return StageRow(
        stage=part,
        stride=round(size / last[1]) if len(last) == 4 else 0,
        shape=tuple(last[1:]),
        parameters=sum(layer.count_params() for layer, _ in layers),
        macs=sum(_macs(layer, shape) for layer, shape in layers),
        state={(True,): "trainable", (False,): "frozen"}.get(tuple(trains), "part"),
    )


def _macs(layer: Any, shape: tuple[int, ...]) -> int:
    if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        return 0
    return int(math.prod(layer.kernel.shape) * math.prod(shape[1:-1]))
