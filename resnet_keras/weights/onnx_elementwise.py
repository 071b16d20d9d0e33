"""ONNX nodes that work on each number apart: affine maps, ReLU, padding, changes of layout."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from resnet_keras.weights.onnx_graph import attributes, describe
from resnet_keras.weights.onnx_trace import Handlers, Tracer, has_input
from resnet_keras.weights.onnx_values import (
    BatchNorm,
    Conv,
    Dense,
    Join,
    Picture,
    Value,
    summed,
)

_LARGE = 1e30  # what exporters write for "no upper bound" starts here


def _same(tracer: Tracer, node: Any) -> Value:
    return tracer.value(node)


def _dropout(tracer: Tracer, node: Any) -> Value:
    if has_input(node, 2) and tracer.graph.constant(node.input[2]).any():
        tracer.refuse(node, "is in training mode; export the network in inference mode")
    return tracer.value(node)


def _cast(tracer: Tracer, node: Any) -> Value:
    import onnx

    kinds = onnx.TensorProto
    if attributes(node)["to"] not in (kinds.FLOAT, kinds.FLOAT16, kinds.DOUBLE, kinds.BFLOAT16):
        tracer.refuse(node, "rounds activations to integers")
    return tracer.value(node)


def _transpose(tracer: Tracer, node: Any) -> Value:
    value = tracer.value(node)
    order = attributes(node).get("perm", range(len(value.axes))[::-1])
    return dataclasses.replace(value, axes="".join(value.axes[index] for index in order))


def _relu(tracer: Tracer, node: Any) -> Value:
    value = tracer.value(node)
    if any(value.pads) or not isinstance(value.source, Conv | Join):
        tracer.refuse(node, f"follows {value.source.label}; a ReLU follows a batch norm or sum")
    return dataclasses.replace(value, relu=True)


def _clip(tracer: Tracer, node: Any) -> Value:
    low, high = tracer.option(node, "min", 1), tracer.option(node, "max", 2)
    if low is None or np.any(low) or (high is not None and np.any(np.less(high, _LARGE))):
        tracer.refuse(node, "is no ReLU: it does not clip at 0 alone")
    return _relu(tracer, node)


def _max(tracer: Tracer, node: Any) -> Value:
    constants = tracer.constants(node)
    if len(constants) != 1 or np.any(constants[0]):
        tracer.refuse(node, "is no ReLU: it is not the maximum with 0")
    return _relu(tracer, node)


def _arithmetic(tracer: Tracer, node: Any) -> Value:
    if len(node.input) != 2:
        tracer.refuse(node, f"has {len(node.input)} inputs where a sum has 2")
    first, second = (name in tracer.values for name in node.input)
    if first and second:
        return _join(tracer, node)
    value, name = tracer.value(node, 1 - first), node.input[int(first)]
    done = any(value.pads) or value.relu or value.final
    if done or not isinstance(value.source, Picture | Conv | Dense):
        tracer.refuse(
            node, f"changes what {value.source.label} gave, after its ReLU, softmax or padding"
        )
    constant = _per_channel(tracer, node, value, constant=tracer.graph.constant(name))
    return _apply(node, value, constant, reverse=not first, tracer=tracer)


def _apply(
    node: Any, value: Value, constant: np.ndarray, *, reverse: bool, tracer: Tracer
) -> Value:
    """Returns the activation after its arithmetic; `reverse` if the constant comes first."""
    kind = node.op_type
    if kind in ("Add", "Sum"):
        return value.added(constant)
    if kind == "Mul":
        return value.multiplied(constant)
    if kind == "Sub":
        return value.multiplied(-np.ones(1)).added(constant) if reverse else value.added(-constant)
    if reverse or not constant.all():
        tracer.refuse(node, "divides by an activation or by zero")
    return value.multiplied(1 / constant)


def _join(tracer: Tracer, node: Any) -> Value:
    left, right = tracer.value(node, 0), tracer.value(node, 1)
    if node.op_type not in ("Add", "Sum"):
        tracer.refuse(node, "combines two activations; only a residual sum may")
    if left.axes != right.axes or any(left.pads) or any(right.pads):
        tracer.refuse(node, "adds activations of different layouts")
    return tracer.made(Join(describe(node), (left, right)), left.axes)


def _per_channel(tracer: Tracer, node: Any, value: Value, *, constant: np.ndarray) -> np.ndarray:
    """Returns a constant as one number, or as one for each channel of the activation."""
    shape = (1,) * (len(value.axes) - constant.ndim) + constant.shape
    sides = {"1": {1}, "N": {1}, "H": {1}, "W": {1}, "C": {1, value.source.channels}}
    if len(shape) != len(value.axes) or any(
        side not in sides[axis] for side, axis in zip(shape, value.axes, strict=True)
    ):
        tracer.refuse(node, f"has a constant of shape {constant.shape}, not one value a channel")
    return constant.reshape(-1).astype(np.float64)


def _batch_norm(tracer: Tracer, node: Any) -> Value:
    value, values = tracer.value(node), attributes(node)
    if values.get("training_mode", 0) or not values.get("spatial", 1):
        tracer.refuse(node, "is in training mode; export the network in inference mode")
    if not isinstance(value.source, Conv) or value.relu or any(value.pads):
        tracer.refuse(
            node, f"follows {value.source.label}, not a convolution: a pre-activation network?"
        )
    tensors = [np.asarray(item, np.float64) for item in tracer.constants(node)]
    if any(tensor.shape != (value.source.channels,) for tensor in tensors):
        tracer.refuse(node, f"does not have one value for each channel of {value.source.label}")
    gamma, beta, mean, variance = tensors
    if (variance < 0).any():
        tracer.refuse(node, "has a negative variance")
    norm = BatchNorm(gamma, beta, mean, variance, _shortest(values.get("epsilon", 1e-5)))
    scale = norm.gamma / np.sqrt(norm.variance + norm.epsilon)
    result = value.added(-norm.mean).multiplied(scale).added(norm.beta)
    return result if value.affine else dataclasses.replace(result, batch_norm=norm)


def _pad(tracer: Tracer, node: Any) -> Value:
    value = tracer.value(node)
    values = attributes(node)
    amounts = np.asarray(tracer.option(node, "pads", 1)).reshape(2, -1)
    axes = list(range(len(value.axes)))
    if has_input(node, 3):
        axes = [int(axis) % len(value.axes) for axis in tracer.graph.constant(node.input[3])]
    sides = {value.axes[axis]: amounts[:, index] for index, axis in enumerate(axes)}
    if any(sides[axis].any() for axis in sides if axis not in "HW"):
        tracer.refuse(node, "pads channels or pictures")
    (top, bottom), (left, right) = (sides.get(axis, (0, 0)) for axis in "HW")
    pads = summed(value.pads, (top, left, bottom, right))
    return dataclasses.replace(
        value, pads=pads, below_pool=value.below_pool or _pads_for_pool(tracer, node, values)
    )


def _pads_for_pool(tracer: Tracer, node: Any, values: dict[str, Any]) -> bool:
    """Returns whether a Pad adds what only a max pool does not tell from zeros after a ReLU."""
    mode, fill = values.get("mode", b"constant"), tracer.option(node, "value", 2)
    if mode == b"constant" and (fill is None or np.all(np.less_equal(fill, 0))):
        return fill is not None and bool(np.any(fill))
    # A repeated edge is in the same window as the edge: Keras pads so on torch.
    if mode != b"edge":
        tracer.refuse(node, "pads with something else than zeros")
    return True


def _rearranged(tracer: Tracer, node: Any) -> Value:
    """Follows a reordering of the picture's channels, as from RGB to BGR."""
    value = tracer.value(node)
    order = _reordered(tracer, node, value.axes)
    if not isinstance(value.source, Picture) or order is None or any(value.pads):
        tracer.refuse(node, "takes activations apart")
    old = np.asarray(value.order or (0, 1, 2))
    return dataclasses.replace(
        value,
        pre=np.broadcast_to(value.pre, 3)[order],
        scale=None if value.scale is None else np.broadcast_to(value.scale, 3)[order],
        post=np.broadcast_to(value.post, 3)[order],
        order=tuple(old[order].tolist()),
    )


def _reordered(tracer: Tracer, node: Any, axes: str) -> list[int] | None:
    """Returns where each of the three channels comes from, None if others than these move."""
    if node.op_type == "Gather":
        axis = attributes(node).get("axis", 0) % 4
        indices = tracer.graph.constant(node.input[1])
        order = [int(index) % 3 for index in indices.reshape(-1)]
    else:
        starts, ends, axis_list, steps = (
            tracer.option(node, name, index)
            for index, name in enumerate(("starts", "ends", "axes", "steps"), start=1)
        )
        if axis_list is None or steps is None or len(axis_list) != 1:
            return None
        axis = int(axis_list[0]) % 4
        order = list(range(3)[slice(int(starts[0]), _end(int(ends[0])), int(steps[0]))])
    return order if axes[axis] == "C" and sorted(order) == [0, 1, 2] else None


def _shortest(value: float) -> float:
    """Returns the number that was meant: a float32 1e-5 reads as 9.999999747e-06."""
    return float(f"{value:.6g}")


def _end(value: int) -> int | None:
    """Returns the end of a slice; ONNX writes a very negative one for "to the start"."""
    return None if value < -3 else value


ELEMENTWISE: Handlers = {
    "Identity": _same,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Relu": _relu,
    "Clip": _clip,
    "Max": _max,
    "Add": _arithmetic,
    "Sum": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "BatchNormalization": _batch_norm,
    "Pad": _pad,
    "Gather": _rearranged,
    "Slice": _rearranged,
}
