"""The shapes of the activations of an ONNX graph, for one picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# The side of the picture where the file does not fix one.
_PROBE_SIZE = 224
# Constants below this many elements are passed on with their values: they may be shapes.
_SMALL = 1024


def infer_shapes(
    model: Any, picture: str, layout: str, *, settled: dict[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes that follow from one picture of the size that the file names, or 224.

    Args:
        model: The parsed `onnx.ModelProto`, which stays as it is.
        picture: Name of the input.
        layout: Its layout, "NCHW" or "NHWC".
        settled: Values of tensors that are known already.

    Returns:
        Shapes by the name of the tensor; what could not be inferred is left out.
    """
    from onnx import shape_inference

    slim = _without_weights(model, settled)
    slim.graph.input.append(_one_picture(model, picture, layout))
    try:
        # Without its data propagation, which a shape of 2**40 in the file would keep busy for days.
        graph = shape_inference.infer_shapes(slim).graph
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    known = {item.name: dims_of(item) for item in [*graph.value_info, *graph.input]}
    return {
        name: tuple(dim for dim in dims if dim is not None)
        for name, dims in known.items()
        if None not in dims
    }


def dims_of(value_info: Any) -> list[int | None]:
    """Returns the dimensions of a tensor, None for those that are not fixed."""
    shape = value_info.type.tensor_type.shape
    return [dim.dim_value if dim.dim_value > 0 else None for dim in shape.dim]


def _without_weights(model: Any, settled: dict[str, np.ndarray]) -> Any:
    """Returns a copy of the graph in which large tensors are inputs, so that it stays small."""
    import onnx

    slim = onnx.ModelProto(ir_version=model.ir_version)
    slim.opset_import.extend(model.opset_import)
    slim.graph.name = "shapes"
    slim.graph.node.extend(
        node for node in model.graph.node if settled.keys().isdisjoint(node.output)
    )
    for name, array in settled.items():
        slim.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) < _SMALL:
            slim.graph.initializer.append(tensor)
        else:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            slim.graph.input.append(info)
    return slim


def _one_picture(model: Any, name: str, layout: str) -> Any:
    import onnx

    item = next(item for item in model.graph.input if item.name == name)
    default = {"N": 1, "C": 3, "H": _PROBE_SIZE, "W": _PROBE_SIZE}
    dims = [
        1 if axis == "N" else dim or default[axis]
        for axis, dim in zip(layout, dims_of(item), strict=True)
    ]
    return onnx.helper.make_tensor_value_info(name, item.type.tensor_type.elem_type, dims)
