"""The spec of a network that was read from an ONNX graph, or what no spec can express."""

from __future__ import annotations

from typing import Literal, NoReturn

from resnet_keras.architectures import DEPTHS, EXPANSION, STEMS, Variant
from resnet_keras.architectures import Block as Kind
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.onnx_graph import Graph
from resnet_keras.weights.onnx_network import Block, Network, conv_of, filters_of
from resnet_keras.weights.onnx_values import Conv

_STEM_FILTERS, _, _WIDTHS = STEMS["imagenet"]
# Convolutions of the stem -> their sides and their filters.
_STEMS = {
    1: ((7,), (_STEM_FILTERS,)),
    3: ((3, 3, 3), (_STEM_FILTERS // 2, _STEM_FILTERS // 2, _STEM_FILTERS)),
}
_ALL_SIDES = (1, 1, 1, 1)
_KERNELS = {2: (3, 3), 3: (1, 3, 1)}
_BLOCKS: dict[int, Kind] = {2: "basic", 3: "bottleneck"}
# Strides of the convolutions of a bottleneck block that halves the size.
_VARIANTS: dict[tuple[int, ...], Variant] = {(2, 1, 1): "v1", (1, 2, 1): "v1.5"}
_POOL_PADDING: dict[tuple[int, ...], Literal["symmetric", "same"]] = {
    _ALL_SIDES: "symmetric",
    (0, 0, 1, 1): "same",
}


def spec_of(network: Network, graph: Graph, bn_epsilon: float) -> ResNetSpec:
    """Returns the spec of a network, after checking that a spec says all of it.

    Raises:
        WeightsError: If the network has something that no spec can express.
    """
    return _SpecReader(network, graph).spec(bn_epsilon)


class _SpecReader:
    def __init__(self, network: Network, graph: Graph) -> None:
        self.network = network
        self.graph = graph

    def spec(self, bn_epsilon: float) -> ResNetSpec:
        self._check_stem()
        depth = self._depth()
        first = self.network.stages[0][0]
        expansion = EXPANSION[_BLOCKS[len(first.branch)]]
        widths = tuple(stage[0].filters // expansion for stage in self.network.stages)
        groups, width_per_group = self._groups(first, widths[0])
        # Only bottlenecks have variants; a basic block has its stride on the first 3x3.
        found = [self._check_stage(i) for i in range(len(self.network.stages))]
        variants = {variant for variant in found if variant}
        if len(variants) > 1:
            self._refuse("its stages do not agree about which convolution has the stride")
        variant = self._deep(variants.pop() if variants else "v1.5")
        width = widths[0] / _WIDTHS[0]
        try:
            spec = ResNetSpec(
                depth,
                variant,
                width,
                self._pool_padding(),
                bn_epsilon,
                groups=groups,
                width_per_group=width_per_group,
            )
        except ValueError as error:
            raise self.graph.refuse(str(error)) from error
        if spec.widths != widths:
            self._refuse(f"its stages are {widths} channels wide, which no `width` gives")
        for stage, width in zip(self.network.stages, widths, strict=True):
            for block in stage:
                self._check_widths(block, width, spec)
        return spec

    def _deep(self, variant: Variant) -> Variant:
        """Returns the variant with what stem and shortcuts say of it."""
        deep = len(self.network.stem) == 3
        pooled = {
            block.pooled
            for stage in self.network.stages[1:]
            for block in stage
            if block.shortcut is not None
        }
        if pooled != {deep} or (deep and variant == "v1"):
            self._refuse(
                f"its stem has {len(self.network.stem)} convolutions, and an average pool comes "
                f"before {'some' if True in pooled else 'none'} of its projections"
            )
        return "d" if deep else variant

    def _groups(self, block: Block, width: int) -> tuple[int, int]:
        """Returns the groups and the channels a group, at a width of 64, of a block's 3x3."""
        if len(block.branch) == 2:
            return 1, 64
        groups, inner = conv_of(block.branch[1]).groups, filters_of(block.branch[1])
        return groups, max(1, round(64 * inner / (groups * width)))

    def _check_widths(self, block: Block, width: int, spec: ResNetSpec) -> None:
        inner = width if spec.kind == "basic" else spec.inner_width(width)
        wanted = (*[inner] * (len(block.branch) - 1), width * spec.expansion)
        found = tuple(filters_of(value) for value in block.branch)
        if found != wanted:
            self._refuse(f"the widths before {block.label} are {found}, not {wanted}")
        for value in (*block.branch, *([block.shortcut] if block.shortcut else [])):
            conv = conv_of(value)
            grouped = spec.groups if conv.kernel.shape[2] == 3 else 1
            if conv.groups != grouped:
                self._refuse(f"{conv.label} has {conv.groups} groups, not {grouped}")

    def _refuse(self, reason: str) -> NoReturn:
        raise self.graph.refuse(reason)

    def _check_stem(self) -> None:
        sides, filters = _STEMS[len(self.network.stem)]
        for value, side, count in zip(self.network.stem, sides, filters, strict=True):
            first = value is self.network.stem[0]
            self._check_conv(conv_of(value), side, stride=2 if first else 1)
            if filters_of(value) != count:
                self._refuse(f"its stem has {filters_of(value)} filters, not {count}")

    def _depth(self) -> int:
        counts = tuple(len(stage) for stage in self.network.stages)
        kind = {len(block.branch) for stage in self.network.stages for block in stage}
        blocks = _BLOCKS.get(kind.pop() if len(kind) == 1 else 0)
        depths = {known: depth for depth, known in DEPTHS.items()}
        if blocks is None or (blocks, counts) not in depths:
            self._refuse(
                f"its stages have {counts} {blocks or 'mixed'} blocks, and the known depths are "
                f"{list(DEPTHS)}"
            )
        return depths[blocks, counts]

    def _pool_padding(self) -> Literal["symmetric", "same"]:
        pool = self.network.pool
        if pool.kernel != (3, 3) or pool.strides != (2, 2):
            self._refuse(f"{pool.label} has kernel {pool.kernel} and strides {pool.strides}")
        if pool.pads not in _POOL_PADDING:
            self._refuse(f"{pool.label} pads {pool.pads} (top, left, bottom, right)")
        return _POOL_PADDING[pool.pads]

    def _check_stage(self, index: int) -> Variant | None:
        """Checks the blocks of a stage; returns the variant if the stage tells it."""
        stage, stride = self.network.stages[index], 2 if index else 1
        filters = (
            filters_of(self.network.stages[index - 1][-1].branch[-1]) if index else _STEM_FILTERS
        )
        for block in stage:
            self._check_block(block, filters, stride)
            filters, stride = block.filters, 1
        strides = stage[0].strides
        return _VARIANTS.get(strides) if index else None

    def _check_block(self, block: Block, filters: int, stride: int) -> None:
        """Checks a block that reads `filters` channels and should have this stride."""
        kernels = _KERNELS[len(block.branch)]
        allowed = {(2,): [(2, 1), *_VARIANTS]}.get((stride,), [(1,) * len(kernels)])
        if block.strides not in allowed:
            self._refuse(f"the convolutions before {block.label} have the strides {block.strides}")
        for value, kernel, own in zip(block.branch, kernels, block.strides, strict=True):
            self._check_conv(conv_of(value), kernel, stride=own)
        self._check_shortcut(block, changed=stride != 1 or filters != block.filters, stride=stride)

    def _check_shortcut(self, block: Block, *, changed: bool, stride: int) -> None:
        if changed != (block.shortcut is not None):
            what = (
                "an identity where the shape changes"
                if changed
                else "a projection for equal shapes"
            )
            self._refuse(f"the shortcut of {block.label} is {what}")
        if block.pooled and stride == 1:
            self._refuse(f"an average pool comes before {block.label}, which keeps the size")
        if block.shortcut is not None:
            self._check_conv(conv_of(block.shortcut), 1, stride=1 if block.pooled else stride)

    def _check_conv(self, conv: Conv, side: int, *, stride: int) -> None:
        pad = side // 2
        found = (conv.kernel.shape[2:], conv.strides, conv.pads)
        if found != ((side, side), (stride, stride), (pad,) * 4):
            self._refuse(
                f"{conv.label} has kernel {found[0]}, strides {found[1]} and pads {found[2]} (top, "
                f"left, bottom, right), where {side}x{side}, stride {stride} and pads of {pad} are "
                "needed"
            )
