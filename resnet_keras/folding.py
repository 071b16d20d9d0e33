"""The network for inference: each batch norm that follows a convolution is folded into it."""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras import ops, tree

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.layers import functional
from resnet_keras.precision import computing_in
from resnet_keras.stages import Boundary, boundary_layer

Tensors = dict[str, Any]


class Folded:
    """A network, or what lies between two of its boundaries, in inference mode.

    It is computed by walking the layers of the network itself. A batch norm in inference mode
    is an affine map, so where it alone follows a convolution it becomes a part of that kernel
    and of a bias, computed in float32 and then brought to the precision of the convolutions.
    The model and its weights stay as they are.

    Args:
        model: A model of `build_resnet`.
        after: The boundary that it starts behind; None for the pixels.
        through: The boundary that it ends with; None for the output of the model.
        dtype: What the convolutions compute in: "float32", "bfloat16" or "float16".

    Example:
        >>> import numpy as np
        >>> from resnet_keras import build_resnet
        >>> model = build_resnet(18, num_classes=5, width=0.25)
        >>> pixels = np.full((1, 64, 64, 3), 100.0)
        >>> bool(np.allclose(Folded(model)(pixels), model(pixels, training=False), atol=1e-4))
        True
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        after: Boundary | None = None,
        through: Boundary | None = None,
        dtype: str = "float32",
    ) -> None:
        self.model, self.dtype = model, dtype
        layers = list(model.layers)
        start = boundary_layer(model, after) if after else layers[0]
        end = boundary_layer(model, through) if through else layers[-1]
        self.input, self.output = start.output, end.output
        self._layers = layers[layers.index(start) + 1 : layers.index(end) + 1]
        self._norms = _foldable(self._layers, self.output)
        self._folded = {norm.name for norm in self._norms.values()}

    def tensors(self) -> Tensors:
        """Returns all that a call needs, by "layer/variable", from the weights as they are now."""
        tensors = {}
        for layer in self._layers:
            if layer.name in self._norms:
                kernel, bias = _fold(layer, self._norms[layer.name])
                tensors[f"{layer.name}/kernel"] = ops.cast(kernel, self.dtype)
                tensors[f"{layer.name}/bias"] = ops.cast(bias, self.dtype)
            elif layer.name not in self._folded:
                for variable in layer.weights:
                    tensors[f"{layer.name}/{variable.name}"] = ops.copy(variable)
        return tensors

    def __call__(self, inputs: Any, tensors: Tensors | None = None) -> Any:
        """Returns features or logits.

        Args:
            inputs: Pixels in [0, 255], or the features at `after`.
            tensors: What `tensors` returned; computed anew if None.
        """
        tensors = self.tensors() if tensors is None else tensors
        known = [
            (variable, tensors[f"{layer.name}/{variable.name}"])
            for layer in self._layers
            if layer.name not in self._folded
            for variable in layer.weights
        ]
        values = {id(self.input): inputs}
        scope = keras.StatelessScope()
        for pair in known:
            # Given to the scope at once, they would be cast to the float32 of the variables.
            scope.add_update(pair)
        with computing_in(self.model, self.dtype), scope:
            for layer in self._layers:
                seen = tree.map_structure(lambda tensor: values[id(tensor)], layer.input)
                values[id(layer.output)] = self._run(layer, seen, tensors)
        return values[id(self.output)]

    def _run(self, layer: keras.layers.Layer, inputs: Any, tensors: Tensors) -> Any:
        if layer.name in self._folded:
            return inputs
        has_mode = "training" in inspect.signature(layer.call).parameters
        outputs = layer(inputs, training=False) if has_mode else layer(inputs)
        if layer.name in self._norms and not layer.use_bias:
            return ops.add(outputs, tensors[f"{layer.name}/bias"])
        return outputs


def _foldable(layers: list[Any], output: Any) -> dict[str, BatchNorm]:
    """Returns the convolutions, by name, whose only consumer is a batch norm, with that norm."""
    consumers: dict[int, list[Any]] = {id(output): [None]}
    for layer in layers:
        for tensor in tree.flatten(layer.input):
            consumers.setdefault(id(tensor), []).append(layer)
    return {
        layer.name: consumers[id(layer.output)][0]
        for layer in layers
        if isinstance(layer, keras.layers.Conv2D)
        and len(consumers[id(layer.output)]) == 1
        and isinstance(consumers[id(layer.output)][0], BatchNorm)
    }


def _fold(conv: Any, norm: BatchNorm) -> tuple[Any, Any]:
    scale = ops.multiply(norm.gamma, ops.rsqrt(ops.add(norm.moving_variance, norm.epsilon)))
    mean = norm.moving_mean - conv.bias if conv.use_bias else norm.moving_mean
    return ops.multiply(conv.kernel, scale), ops.subtract(norm.beta, ops.multiply(mean, scale))


class FrozenPart(keras.layers.Layer):
    """A frozen part of a network as one layer: folded, in inference mode, with its own weights.

    In training through it nothing of it moves, and no gradient is computed for it. It holds the
    weights as they are when it is made, so it serves one phase and is never saved.

    Args:
        folded: The part, from the pixels on.
        kept: Type of the variables; None for that of the tensors. TensorFlow's workers send each
            other what variables begin with, but not in bfloat16.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, folded: Folded, *, kept: str | None = None, **kwargs: Any) -> None:
        super().__init__(trainable=False, **{"dtype": "float32"} | kwargs)
        self._folded, self._values, self._dtypes = folded, {}, {}
        for name, tensor in folded.tensors().items():
            self._dtypes[name] = keras.backend.standardize_dtype(tensor.dtype)
            self._values[name] = self.add_weight(
                shape=tensor.shape, dtype=kept or tensor.dtype, trainable=False, autocast=False
            )
            self._values[name].assign(tensor)
        self.built = True

    def call(self, pixels: Any) -> Any:
        """Returns the features at the end of the part."""
        values = {name: ops.cast(value, self._dtypes[name]) for name, value in self._values.items()}
        return self._folded(pixels, values)

    def compute_output_spec(self, pixels: Any) -> keras.KerasTensor:
        """Returns shape and type of the features."""
        part = functional(self._folded.input, self._folded.output)
        return keras.KerasTensor(part.compute_output_spec(pixels).shape, self._folded.dtype)
