"""From ONNX nodes to the few things that a ResNet is made of, whatever the exporter wrote.

Every activation is described by what made it (its source: a convolution, a sum, a pool) and what
was done to it since: an affine map per channel, a ReLU, zero padding, a change of layout. So a
batch norm, a folded bias and a chain of Add, Sub, Mul and Div all end in the same description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from resnet_keras.weights.onnx_graph import Graph, attributes, describe
from resnet_keras.weights.onnx_values import Picture, Source, Value


class Tracer:
    """Walks the nodes of a graph once and describes every activation.

    Args:
        graph: The graph to walk.
        handlers: What describes the first output of a node, by the kind of the node.
    """

    def __init__(self, graph: Graph, handlers: Handlers) -> None:
        self.graph = graph
        self._handlers = handlers
        picture = Picture(f"the input {graph.input!r}")
        self.values: dict[str, Value] = {graph.input: Value(picture, graph.layout)}
        self.sources: list[Source] = [picture]

    def run(self) -> tuple[list[Value], list[Source]]:
        """Describes the outputs of the graph.

        Returns:
            The outputs, and every source that was met on the way.

        Raises:
            WeightsError: If a node does something that no ResNet of this package does.
        """
        for node in self.graph.nodes:
            # Shapes are constants here, and so is what only depends on constants.
            names = node.input[:1] if node.op_type == "CastLike" else node.input
            if node.op_type != "Shape" and not self.values.keys().isdisjoint(names):
                self.values[node.output[0]] = self._step(node)
        constant = [name for name in self.graph.outputs if name not in self.values]
        if constant:
            raise self.graph.refuse(f"the output {constant[0]!r} does not depend on the input")
        return [self.values[name] for name in self.graph.outputs], self.sources

    def _step(self, node: Any) -> Value:
        handler = self._handlers.get(node.op_type)
        if handler is None or node.domain not in ("", "ai.onnx"):
            self.refuse(node, "is no part of a ResNet of version 1 or 1.5")
        try:
            return handler(self, node)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise self.graph.refuse(f"{describe(node)} is damaged ({error})") from error

    def refuse(self, node: Any, reason: str) -> NoReturn:
        """Raises the error that says what is wrong with a node."""
        raise self.graph.refuse(f"{describe(node)} {reason}")

    def made(self, source: Source, axes: str) -> Value:
        """Returns the activation that a new source made, before anything was done to it."""
        self.sources.append(source)
        return Value(source, axes)

    def value(self, node: Any, index: int = 0) -> Value:
        """Returns an input of a node that depends on the picture."""
        name = node.input[index]
        if name not in self.values:
            self.refuse(node, "takes a constant where an activation is needed")
        return self.values[name]

    def constants(self, node: Any, start: int = 1) -> list[np.ndarray | None]:
        """Returns the inputs of a node from `start` on, None for those that are left out."""
        names = node.input[start:]
        if not self.values.keys().isdisjoint(names):
            self.refuse(node, "takes an activation where a constant is needed")
        return [self.graph.constant(name) if name else None for name in names]

    def option(self, node: Any, name: str, index: int) -> Any:
        """Returns what is an attribute in older and an input in newer ONNX versions, or None."""
        values = attributes(node)
        if name in values:
            return values[name]
        return self.graph.constant(node.input[index]) if has_input(node, index) else None


def has_input(node: Any, index: int) -> bool:
    """Returns whether an optional input of a node is given."""
    return len(node.input) > index and bool(node.input[index])


Handlers = dict[str, Callable[[Tracer, Any], Value]]
