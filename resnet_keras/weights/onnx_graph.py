"""An ONNX file as a graph: nodes in order, and the tensors that do not depend on the input."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.weights.onnx_shapes import dims_of, infer_shapes
from resnet_keras.weights.sniff import check_readable

# What may be computed from constants alone. The list is short because a file must not be able to
# start arbitrary work; `_result_size` bounds the memory of each.
_FOLDABLE = {
    *("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Concat"),
    *("Slice", "Gather", "Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Reciprocal", "Pow"),
    *("ConstantOfShape", "Expand", "DequantizeLinear", "Floor", "Ceil"),
}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow"}
# 512 MiB of float32; the largest kernel of a ResNet of width 4 has 38 million elements.
_MAX_ELEMENTS = 2**27
_SHAPED_BY_SECOND = {"Pad", "Reshape", "Squeeze", "Unsqueeze", "Expand"}


class Graph:
    """The main graph of an ONNX model, with its constants evaluated on demand.

    Args:
        model: The parsed `onnx.ModelProto`.
        label: What to call the file in messages.
    """

    def __init__(self, model: Any, label: str) -> None:
        self.label = label
        self.nodes = list(model.graph.node)
        self.outputs = [output.name for output in model.graph.output]
        self.used: set[str] = set()
        self._model = model
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._values: dict[str, np.ndarray] = {}
        self.input, self.layout = self._find_input()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._infer_shapes()

    def refuse(self, reason: str) -> WeightsError:
        """Returns the error that says why this file is no network of this package."""
        return WeightsError(f"{self.label} cannot be read as a ResNet: {reason}.")

    def constant(self, name: str) -> np.ndarray:
        """Returns the value of a tensor that does not depend on the input, and counts it as used.

        Raises:
            WeightsError: If it depends on the input, or on what cannot be evaluated.
        """
        if name not in self._values:
            try:
                self._values[name] = self._evaluate(name)
            except RecursionError as error:
                raise self.refuse(f"the tensor {name!r} depends on itself") from error
        return self._values[name]

    def unused(self) -> list[str]:
        """Returns the names of the float tensors of more than one element that nothing used."""
        constants = dict(self._initializers)
        for node in self.nodes:
            if node.op_type == "Constant":
                value = attributes(node).get("value")
                constants |= {node.output[0]: value} if hasattr(value, "data_type") else {}
        return [
            name
            for name, tensor in constants.items()
            if name not in self.used and _is_float(tensor) and math.prod(tensor.dims) > 1
        ]

    def _evaluate(self, name: str) -> np.ndarray:
        if name in self._initializers:
            self.used.add(name)
            return self._to_array(name, self._initializers[name])
        node = self._producers.get(name)
        if node is None:
            raise self.refuse(f"the tensor {name!r} is neither stored nor computed")
        if node.op_type == "Constant":
            self.used.add(name)
            return self._constant_node(node)
        if node.op_type == "Shape":
            return self._shape_node(node)
        if node.op_type == "CastLike":
            return self.constant(node.input[0])
        if node.op_type not in _FOLDABLE:
            raise self.refuse(f"{describe(node)} stands where a constant is needed")
        return self._fold(node)

    def _to_array(self, name: str, tensor: Any) -> np.ndarray:
        import onnx

        try:
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError, OSError, OverflowError) as error:
            raise self.refuse(f"the tensor {name!r} is damaged ({error})") from error

    def _constant_node(self, node: Any) -> np.ndarray:
        values = attributes(node)
        if "value" in values:
            return self._to_array(node.output[0], values["value"])
        for key, kind in (("float", np.float32), ("int", np.int64)):
            for name in (f"value_{key}", f"value_{key}s"):
                if name in values:
                    return np.asarray(values[name], kind)
        raise self.refuse(f"{describe(node)} holds no number")

    def _shape_node(self, node: Any) -> np.ndarray:
        name = node.input[0]
        shape = self.shapes.get(name)
        if name in self._initializers:
            shape = tuple(self._initializers[name].dims)
        if shape is None:
            raise self.refuse(f"{describe(node)} asks for a size that is not known")
        values = attributes(node)
        return np.asarray(shape[values.get("start", 0) : values.get("end")], np.int64)

    def _fold(self, node: Any) -> np.ndarray:
        import onnx
        from onnx.reference import ReferenceEvaluator

        inputs = {name: self.constant(name) for name in node.input if name}
        if _result_size(node, list(inputs.values())) > _MAX_ELEMENTS:
            raise self.refuse(f"{describe(node)} would fill the memory")
        try:
            graph = onnx.helper.make_graph(
                [node],
                "constant",
                [_value_info(name, array) for name, array in inputs.items()],
                [onnx.helper.make_empty_tensor_value_info(node.output[0])],
            )
            model = onnx.helper.make_model(graph, opset_imports=self._model.opset_import)
            result = ReferenceEvaluator(model).run(None, inputs)[0]
        except Exception as error:  # the evaluator raises whatever its operators raise
            raise self.refuse(f"{describe(node)} cannot be evaluated ({error})") from error
        return np.asarray(result)

    def _find_input(self) -> tuple[str, str]:
        """Returns the name of the picture input, and its layout: "NCHW" or "NHWC"."""
        inputs = [item for item in self._model.graph.input if item.name not in self._initializers]
        if len(inputs) != 1:
            raise self.refuse(f"it has {len(inputs)} inputs where one batch of pictures is needed")
        dims = dims_of(inputs[0])
        if len(dims) != 4:
            raise self.refuse(f"its input has {len(dims)} dimensions where a batch has 4")
        colours = (1, 3)
        last = dims[3] in colours and dims[1] not in colours
        unknown = dims[1] is None and dims[3] is None
        if last or (unknown and self._is_transposed(inputs[0].name)):
            return inputs[0].name, "NHWC"
        return inputs[0].name, "NCHW"

    def _is_transposed(self, name: str) -> bool:
        """Whether the first thing that rearranges the tensor moves the last axis to the second."""
        names = {name}
        for node in self.nodes:
            if names.isdisjoint(node.input):
                continue
            if node.op_type == "Transpose":
                return list(attributes(node).get("perm", ())) == [0, 3, 1, 2]
            names.update(node.output)
        return False

    def _infer_shapes(self) -> None:
        """Finds the shapes of the activations for one picture of the size that the file names.

        Exporters compute paddings and shapes from other shapes, so what is known after one
        inference settles what the next one needs.
        """
        settled: dict[str, np.ndarray] = {}
        known = -1
        while len(self.shapes) + len(settled) > known:
            known = len(self.shapes) + len(settled)
            self.shapes = infer_shapes(self._model, self.input, self.layout, settled=settled)
            for name in self._shaping_inputs() - settled.keys() - self._initializers.keys():
                with contextlib.suppress(WeightsError):
                    settled[name] = self.constant(name)

    def _shaping_inputs(self) -> set[str]:
        """Returns the names of the whole numbers that nodes take as paddings, shapes and axes."""
        return {
            node.input[1]
            for node in self.nodes
            if node.op_type in _SHAPED_BY_SECOND and len(node.input) > 1 and node.input[1]
        }


def load_graph(path: Path) -> Graph:
    """Parses an ONNX file, its external data included.

    Raises:
        WeightsError: If the file is missing, damaged or no ONNX model, or if `onnx` is missing.
    """
    check_readable(path)
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise WeightsError(
            f'{path} needs the package onnx to be read: pip install "resnet_keras[onnx]".'
        ) from error
    try:
        model = onnx.load(path)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # protobuf, the checker and the file system each raise their own
        raise WeightsError(
            f"{path} is no ONNX model or a truncated one: {str(error) or type(error).__name__}."
        ) from error
    if not model.graph.node:
        raise WeightsError(f"{path} is no ONNX model: it holds no graph.")
    return Graph(model, str(path))


def attributes(node: Any) -> dict[str, Any]:
    """Returns the attributes of a node as Python values."""
    import onnx

    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def describe(node: Any) -> str:
    """Returns the kind and the name of a node, for a message."""
    return f"the {node.op_type} {(node.name or node.output[0])!r}"


def _is_float(tensor: Any) -> bool:
    import onnx

    kinds = onnx.TensorProto
    return tensor.data_type in (kinds.FLOAT, kinds.FLOAT16, kinds.DOUBLE, kinds.BFLOAT16)


def _value_info(name: str, array: np.ndarray) -> Any:
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, array.shape)


def _result_size(node: Any, inputs: list[np.ndarray]) -> int:
    """Returns an upper bound of the elements that a node computes."""
    if node.op_type == "ConstantOfShape":
        return math.prod(int(side) for side in inputs[0].reshape(-1))
    if node.op_type == "Expand":
        return inputs[0].size * math.prod(int(side) for side in inputs[1].reshape(-1))
    if node.op_type == "Gather":
        return inputs[0].size * inputs[1].size
    if node.op_type in _ELEMENTWISE:
        rank = max(array.ndim for array in inputs)
        shapes = [(1,) * (rank - array.ndim) + array.shape for array in inputs]
        return math.prod(max(sides) for sides in zip(*shapes, strict=True))
    return sum(array.size for array in inputs)
