"""How activations are kept: a row of bytes a picture, packed and unpacked by Keras alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from resnet_keras.layers import PACKAGE

Bits = Literal[8, 16, 32]
Code = Literal["float32", "bfloat16", "float16", "uint8"]
ITEM_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1}
# Distance of the least from the greatest code of 8 bits.
LEVELS = 255
FLOAT16_MAX = 65504.0
# Below it float32 loses digits, so that a quotient by such a step could leave the codes.
SMALLEST_STEP = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the activations of one picture become a row of bytes, and come back.

    "uint8" keeps a code for each value, and `low` and `step` for each channel of this picture
    alone: a value comes back as `low + step * code`, at most half a step away. A channel with
    zeros and nothing below them, as ReLU leaves it, has `low = 0`, so that zeros stay zeros.

    Args:
        shape: Of one picture's activations, channels last.
        code: What the values are kept as.
    """

    shape: tuple[int, ...]
    code: Code

    @classmethod
    def choose(cls, shape: tuple[int, ...], *, bits: Bits, dtype: str) -> Packing:
        """Returns the packing with so many bits a value; pooled features always have 32.

        Args:
            shape: Of one picture's activations.
            bits: 32, 16 or 8.
            dtype: What the activations are computed in, "bfloat16" being kept as it is by 16
                bits; float32 becomes float16, whose largest value stands for all beyond.

        Raises:
            ValueError: If there is no such number of bits.
        """
        codes: dict[int, Code] = {
            32: "float32",
            16: "bfloat16" if dtype == "bfloat16" else "float16",
            8: "uint8",
        }
        if bits not in codes:
            raise ValueError(f"`bits` must be one of {sorted(codes)}. Received: bits={bits!r}")
        return cls(tuple(shape), codes[bits] if len(shape) > 1 else "float32")

    @property
    def row_bytes(self) -> int:
        """Length of a row."""
        return ITEM_BYTES[self.code] * math.prod(self.shape) + self._affine_bytes

    @property
    def _affine_bytes(self) -> int:
        """Bytes of low and step, which are float32, before the codes of a row."""
        return 2 * ITEM_BYTES["float32"] * self.shape[-1] if self.code == "uint8" else 0

    def is_exact(self, dtype: str) -> bool:
        """Whether activations that were computed in `dtype` come back as they were."""
        return self.code in ("float32", dtype)

    def pack(self, features: Any) -> Any:
        """Returns the rows, uint8 `(batch, row_bytes)`, of features `(batch, *shape)`."""
        if self.code == "uint8":
            fields = self._quantise(ops.cast(features, "float32"))
            return ops.concatenate([_bytes(field) for field in fields], axis=1)
        if self.code == "float16":
            features = ops.clip(features, -FLOAT16_MAX, FLOAT16_MAX)
        return _bytes(ops.cast(features, self.code))

    def _quantise(self, features: Any) -> tuple[Any, Any, Any]:
        """Returns low, step and codes; a channel with a value that is not finite gets a NaN."""
        places = tuple(range(1, len(self.shape)))
        low = ops.min(features, axis=places, keepdims=True)
        step = (ops.max(features, axis=places, keepdims=True) - low) / LEVELS
        varies = step >= SMALLEST_STEP
        step = ops.where(varies, step, ops.zeros_like(step))
        codes = ops.round((features - low) / ops.where(varies, step, ops.ones_like(step)))
        return low, step, ops.cast(codes, "uint8")

    def unpack(self, rows: Any, dtype: str = "float32") -> Any:
        """Returns features `(batch, *shape)` of rows, uint8 `(batch, row_bytes)`."""
        if self.code != "uint8":
            return ops.cast(ops.reshape(ops.view(rows, self.code), (-1, *self.shape)), dtype)
        end = self._affine_bytes
        low, step = (
            ops.reshape(ops.view(field, "float32"), self._channelwise)
            for field in (rows[:, : end // 2], rows[:, end // 2 : end])
        )
        codes = ops.cast(ops.reshape(rows[:, end:], (-1, *self.shape)), "float32")
        return ops.cast(low + step * codes, dtype)

    @property
    def _channelwise(self) -> tuple[int, ...]:
        return (-1, *(1,) * (len(self.shape) - 1), self.shape[-1])


def _bytes(values: Any) -> Any:
    return ops.view(ops.reshape(values, (-1, math.prod(values.shape[1:]))), "uint8")


@keras.saving.register_keras_serializable(PACKAGE)
class Unpack(keras.layers.Layer):
    """Turns rows of kept activations back into features, in the layer's compute dtype.

    Args:
        packing: The `Packing` of the rows, or the dictionary it was saved as.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, packing: Packing | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(packing, Packing):
            packing = Packing(tuple(packing["shape"]), packing["code"])
        self.packing = packing

    def call(self, rows: Any) -> Any:
        """Returns features, `(batch, *packing.shape)`."""
        return self.packing.unpack(rows, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the features."""
        return (input_shape[0], *self.packing.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the config that rebuilds this layer."""
        packing = {"shape": list(self.packing.shape), "code": self.packing.code}
        return {**super().get_config(), "packing": packing}
