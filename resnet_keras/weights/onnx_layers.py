"""ONNX nodes that mix numbers: convolutions, pools and the head."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from resnet_keras.weights.onnx_graph import attributes, describe
from resnet_keras.weights.onnx_trace import Handlers, Tracer
from resnet_keras.weights.onnx_values import (
    NO_PADS,
    Conv,
    Dense,
    GlobalPool,
    HalvingPool,
    MaxPool,
    Pads,
    Value,
    summed,
)


def _conv(tracer: Tracer, node: Any) -> Value:
    value, values = tracer.value(node), attributes(node)
    kernel, *rest = tracer.constants(node)
    if kernel is None or kernel.ndim != 4:
        tracer.refuse(node, "has no kernel of four dimensions")
    if isinstance(value.source, GlobalPool):
        return _dense(tracer, node, kernel.reshape(kernel.shape[:2]).T, bias=rest)
    if value.axes != "NCHW":
        tracer.refuse(node, f"takes an activation whose layout is {value.axes}")
    if value.below_pool:
        tracer.refuse(node, "takes an activation that is padded with something else than zeros")
    if any(side != 1 for side in values.get("dilations", [1])):
        tracer.refuse(node, "is dilated")
    sides, strides = kernel.shape[2:], tuple(values.get("strides", [1, 1]))
    pads = _pads(tracer, node, sides=sides, strides=strides)
    bias = np.zeros(len(kernel)) if not rest or rest[0] is None else rest[0].astype(np.float64)
    if bias.shape != kernel.shape[:1]:
        tracer.refuse(node, f"has {len(kernel)} filters and a bias of shape {bias.shape}")
    source = Conv(
        describe(node),
        (value,),
        kernel=kernel,
        bias=bias,
        strides=strides,
        pads=pads,
        groups=values.get("group", 1),
    )
    return tracer.made(source, "NCHW")


def _pads(tracer: Tracer, node: Any, *, sides: tuple[int, ...], strides: tuple[int, ...]) -> Pads:
    """Returns all the padding of a convolution or pool, that of a Pad before it included."""
    values = attributes(node)
    mode = values.get("auto_pad", b"NOTSET").decode()
    if mode == "SAME_LOWER":
        tracer.refuse(node, "pads top and left (SAME_LOWER)")
    if mode == "SAME_UPPER":
        # On even sizes, which are those that the stages of a ResNet have.
        total = [max(side - stride, 0) for side, stride in zip(sides, strides, strict=True)]
        own = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    else:
        own = tuple(values.get("pads", NO_PADS))
    return summed(tracer.value(node).pads, own)


def _max_pool(tracer: Tracer, node: Any) -> Value:
    value, values = tracer.value(node), attributes(node)
    kernel, strides = tuple(values["kernel_shape"]), tuple(values.get("strides", [1, 1]))
    if value.axes != "NCHW" or any(side != 1 for side in values.get("dilations", [1])):
        tracer.refuse(node, f"is dilated or takes the layout {value.axes}")
    pads = _pads(tracer, node, sides=kernel, strides=strides)
    if values.get("ceil_mode", 0):
        if any(pads):
            tracer.refuse(node, "pads and rounds its size up")
        # Caffe's way: on even sizes the last window reaches one pixel over the edge.
        pads = (0, 0, 1, 1)
    source = MaxPool(describe(node), (value,), kernel=kernel, strides=strides, pads=pads)
    return tracer.made(source, "NCHW")


def _average_pool(tracer: Tracer, node: Any) -> Value:
    value, values = tracer.value(node), attributes(node)
    # Where the file leaves the size open, 224: 7 x 7 positions.
    shape = tracer.graph.shapes.get(node.output[0], ())
    if shape[2:] == (1, 1) and not any(values.get("pads", NO_PADS)):
        return _global_pool(tracer, node)
    # At odd sizes the last window has one row or column, as torch and Keras have it.
    up = values.get("ceil_mode", 0) or values.get("auto_pad") == b"SAME_UPPER"
    halving = values["kernel_shape"] == values.get("strides") == [2, 2] and up
    if not halving or any(values.get("pads", NO_PADS)) or any(value.pads):
        tracer.refuse(node, "takes the mean neither over all positions nor over 2 x 2, rounded up")
    return tracer.made(HalvingPool(describe(node), (value,)), value.axes)


def _global_pool(tracer: Tracer, node: Any) -> Value:
    value = tracer.value(node)
    axes = value.axes.replace("H", "1").replace("W", "1")
    if node.op_type != "ReduceMean" and value.axes != "NCHW":
        tracer.refuse(node, f"takes an activation whose layout is {value.axes}")
    if node.op_type == "ReduceMean":
        axes = _reduced(tracer, node, value.axes)
    if any(value.pads) or value.affine:
        tracer.refuse(node, f"does not directly follow the ReLU of {value.source.label}")
    return tracer.made(GlobalPool(describe(node), (value,)), axes)


def _reduced(tracer: Tracer, node: Any, axes: str) -> str:
    reduced = tracer.option(node, "axes", 1)
    places = {int(axis) % len(axes) for axis in ([] if reduced is None else reduced)}
    if {axes[place] for place in places} != {"H", "W"}:
        tracer.refuse(node, "does not take the mean over height and width")
    one = "1" if attributes(node).get("keepdims", 1) else ""
    return "".join(one if place in places else axis for place, axis in enumerate(axes))


def _reshape(tracer: Tracer, node: Any) -> Value:
    """Follows a change of shape that only drops or adds axes of size one, behind the pool."""
    value = tracer.value(node)
    shape = tracer.graph.shapes.get(node.output[0])
    if not isinstance(value.source, GlobalPool | Dense):
        tracer.refuse(node, "changes the shape of activations before the global pool")
    if shape is None:
        tracer.refuse(node, "gives a shape that is not known")
    places = [place for place, side in enumerate(shape) if place and side != 1]
    if len(places) > 1 or len(shape) < 2:
        tracer.refuse(node, f"gives the shape {shape}, which mixes channels")
    channel = places[0] if places else 1
    axes = "".join("C" if i == channel else "1" for i in range(1, len(shape)))
    return dataclasses.replace(value, axes=f"N{axes}")


def _gemm(tracer: Tracer, node: Any) -> Value:
    values = attributes(node)
    kernel, *rest = tracer.constants(node)
    if kernel is None or values.get("transA", 0):
        tracer.refuse(node, "is no dense layer")
    kernel = (kernel.T if values.get("transB", 0) else kernel) * values.get("alpha", 1.0)
    bias = [item * values.get("beta", 1.0) for item in rest if item is not None]
    return _dense(tracer, node, kernel, bias=bias)


def _matmul(tracer: Tracer, node: Any) -> Value:
    kernel = tracer.constants(node)[0]
    if kernel is None or kernel.ndim != 2:
        tracer.refuse(node, "is no dense layer")
    return _dense(tracer, node, kernel, bias=[])


def _dense(tracer: Tracer, node: Any, kernel: np.ndarray, *, bias: list[Any]) -> Value:
    value = tracer.value(node)
    if not isinstance(value.source, GlobalPool) or not value.plain or kernel.ndim != 2:
        tracer.refuse(node, f"follows {value.source.label}; a head follows the global pool")
    shift = bias[0] if bias and bias[0] is not None else np.zeros(1)
    shift = np.broadcast_to(shift.reshape(-1).astype(np.float64), kernel.shape[1:])
    source = Dense(describe(node), (value,), kernel=kernel.astype(np.float64), bias=shift)
    return tracer.made(source, value.axes)


def _softmax(tracer: Tracer, node: Any) -> Value:
    value = tracer.value(node)
    if not isinstance(value.source, Dense):
        tracer.refuse(node, "does not follow a dense layer")
    return dataclasses.replace(value, final=True)


LAYERS: Handlers = {
    "Conv": _conv,
    "MaxPool": _max_pool,
    "GlobalAveragePool": _global_pool,
    "AveragePool": _average_pool,
    "ReduceMean": _global_pool,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Softmax": _softmax,
}
