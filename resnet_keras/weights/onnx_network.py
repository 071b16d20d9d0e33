"""From the sources of an ONNX graph to the stem, the stages and the head of a ResNet."""

from __future__ import annotations

import dataclasses
from typing import NoReturn

from resnet_keras.weights.onnx_graph import Graph
from resnet_keras.weights.onnx_values import (
    Conv,
    Dense,
    GlobalPool,
    HalvingPool,
    Join,
    MaxPool,
    Picture,
    Source,
    Value,
)

# Convolutions of a branch, in a basic and in a bottleneck block.
_BRANCHES = (2, 3)
# Convolutions of a stem, of 7x7 and of 3x3 pixels.
_STEMS = (1, 3)


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual block: its branch and its projection as activations before the sum.

    Args:
        branch: The convolutions that are added, in order.
        shortcut: The projection, None for the identity.
        label: The sum, for messages.
    """

    branch: tuple[Value, ...]
    shortcut: Value | None
    label: str

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the branch's convolutions."""
        return tuple(conv_of(value).strides[0] for value in self.branch)

    @property
    def filters(self) -> int:
        """Output channels."""
        return filters_of(self.branch[-1])

    @property
    def pooled(self) -> bool:
        """Whether an average pool that halves the size comes before the projection."""
        return self.shortcut is not None and _reads_pool(self.shortcut)


@dataclasses.dataclass(frozen=True)
class Network:
    """The parts of a ResNet, each activation with the convolution that made it.

    Args:
        picture: The input, with what was done to it before the stem.
        stem: The convolutions before the max pool, one or three.
        pool: The max pool.
        stages: The blocks, by stage.
        head: The logits, None for a network without a head.
    """

    picture: Value
    stem: tuple[Value, ...]
    pool: MaxPool
    stages: tuple[tuple[Block, ...], ...]
    head: Value | None

    def sources(self) -> set[Source]:
        """Returns every source that holds weights."""
        blocks = [block for stage in self.stages for block in stage]
        values = [value for block in blocks for value in (*block.branch, block.shortcut)]
        return {value.source for value in (*self.stem, self.head, *values) if value is not None}

    def convolutions(self) -> dict[str, Value]:
        """Returns the convolutions by the start of their layers' names."""
        names = ["stem"] if len(self.stem) == 1 else ["stem_1", "stem_2", "stem_3"]
        named = dict(zip(names, self.stem, strict=True))
        for index, stage in enumerate(self.stages, start=1):
            for number, block in enumerate(stage, start=1):
                name = f"stage{index}_block{number}"
                named |= {f"{name}_{i}": value for i, value in enumerate(block.branch, start=1)}
                named |= {f"{name}_shortcut": block.shortcut} if block.shortcut else {}
        return named


class Walk:
    """Walks a graph from its outputs to its input and takes it apart on the way.

    Args:
        graph: The graph, for messages.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def network(self, outputs: list[Value], sources: list[Source]) -> Network:
        """Returns the parts of the network.

        Raises:
            WeightsError: If the graph is no ResNet, or has convolutions beside it.
        """
        heads = {value.source: value for value in outputs if isinstance(value.source, Dense)}
        trunks = {trunk.source: trunk for trunk in map(self._trunk, outputs)}
        if len(heads) > 1 or len(trunks) != 1:
            self.refuse(f"it has {len(outputs)} outputs that do not belong to one head")
        value, blocks = next(iter(trunks.values())), []
        while isinstance(value.source, Join):
            block, value = self._block(value)
            blocks.append(block)
        network = self._from_stem(value, blocks[::-1], next(iter(heads.values()), None))
        self._check_nothing_left(network, sources)
        return network

    def refuse(self, reason: str) -> NoReturn:
        """Raises the error that says why this file is no network of this package."""
        raise self.graph.refuse(reason)

    def _trunk(self, output: Value) -> Value:
        """Returns the features below an output."""
        value = output
        while isinstance(value.source, Dense | GlobalPool):
            (value,) = value.source.inputs
        return value

    def _block(self, value: Value) -> tuple[Block, Value]:
        """Returns the block that ends in this activation, and the block's own input."""
        label = value.source.label
        if not value.relu:
            self.refuse(f"no ReLU follows {label}: a pre-activation network (version 2)?")
        (first, start), (second, other_start) = map(self._branch, value.source.inputs)
        if start.source is not other_start.source:
            self.refuse(f"the two inputs of {label} do not start at one activation")
        if start.relu != other_start.relu:
            self.refuse(f"one input of {label} starts before a ReLU: a pre-activation network?")
        shortcut, branch = sorted((first, second), key=len)
        if len(shortcut) > 1 or len(branch) not in _BRANCHES:
            self.refuse(
                f"{label} adds {len(shortcut)} and {len(branch)} convolutions; a basic block has 2 "
                "and a bottleneck 3 beside a shortcut of at most one"
            )
        if any(map(_reads_pool, branch)):
            self.refuse(f"an average pool lies in the branch that {label} adds")
        return Block(tuple(branch), shortcut[0] if shortcut else None, label), start

    def _branch(self, value: Value) -> tuple[list[Value], Value]:
        """Returns the convolutions behind an activation, first one first, and what they read."""
        if not isinstance(value.source, Conv) or value.relu:
            return [], value
        convolutions: list[Value] = []
        while isinstance(value.source, Conv):
            convolutions.insert(0, value)
            (value,) = value.source.inputs
            if isinstance(value.source, HalvingPool):
                (value,) = value.source.inputs
            if isinstance(value.source, Picture):
                self.refuse("no max pool comes between the stem and the first block")
            if not value.relu and not isinstance(value.source, MaxPool):
                self.refuse(f"no ReLU comes before {convolutions[0].source.label}")
        return convolutions, value

    def _from_stem(self, pooled: Value, blocks: list[Block], head: Value | None) -> Network:
        pool = pooled.source
        if not isinstance(pool, MaxPool) or not blocks:
            self.refuse(f"its first block reads {pool.label}, where a max pool is needed")
        stem: list[Value] = []
        (value,) = pool.inputs
        while isinstance(value.source, Conv):
            if not value.relu:
                self.refuse(f"no ReLU follows {value.source.label} in the stem")
            stem.insert(0, value)
            (value,) = value.source.inputs
        if len(stem) not in _STEMS or not isinstance(value.source, Picture):
            self.refuse(f"its stem is {len(stem)} convolutions behind {value.source.label}")
        return Network(value, tuple(stem), pool, _stages(blocks), head)

    def _check_nothing_left(self, network: Network, sources: list[Source]) -> None:
        known = network.sources()
        left = [
            item.label for item in sources if isinstance(item, Conv | Dense) and item not in known
        ]
        if left:
            self.refuse(f"{len(left)} nodes belong to no block: {', '.join(left[:10])}")


def _stages(blocks: list[Block]) -> tuple[tuple[Block, ...], ...]:
    """Cuts the blocks where the size or the number of channels changes."""
    stages: list[list[Block]] = []
    for block in blocks:
        if not stages or 2 in block.strides or block.filters != stages[-1][-1].filters:
            stages.append([])
        stages[-1].append(block)
    return tuple(tuple(stage) for stage in stages)


def _reads_pool(value: Value) -> bool:
    (read,) = value.source.inputs
    return isinstance(read.source, HalvingPool)


def conv_of(value: Value) -> Conv:
    """Returns the convolution that made an activation known to come from one."""
    assert isinstance(value.source, Conv)
    return value.source


def filters_of(value: Value) -> int:
    """Returns the number of its output channels."""
    return int(conv_of(value).kernel.shape[0])
