"""Keras's optimizers, where TensorFlow has it with each weight updated in one pass over memory.

Keras writes the update as a dozen operations, each of which reads and writes tensors as large as
the weights, and so takes as long as the memory does. TensorFlow has kernels for the same
arithmetic that read and write each tensor once.
"""

from __future__ import annotations

from typing import Any

import keras

from resnet_keras.layers import PACKAGE


def _has_kernel(gradient: Any) -> bool:
    """Returns whether there is a kernel: for whole tensors of TensorFlow, not rows of them."""
    if keras.backend.backend() != "tensorflow":
        return False
    from tensorflow import Tensor

    return isinstance(gradient, Tensor)


class _Adam:
    """The update of Adam.

    The kernel takes 1 - 0.999 from float32, which moves an update by 1e-5 of its size.
    """

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one weight."""
        if not _has_kernel(gradient):
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        from tensorflow import raw_ops

        index, dtype = self._get_variable_index(variable), variable.dtype
        betas = [keras.ops.cast(beta, dtype) for beta in (self.beta_1, self.beta_2)]
        step = keras.ops.cast(self.iterations + 1, dtype)
        powers = [keras.ops.power(beta, step) for beta in betas]
        raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=powers[0],
            beta2_power=powers[1],
            lr=keras.ops.cast(learning_rate, dtype),
            beta1=betas[0],
            beta2=betas[1],
            epsilon=keras.ops.cast(self.epsilon, dtype),
            grad=keras.ops.cast(gradient, dtype),
        )


@keras.saving.register_keras_serializable(PACKAGE)
class Adam(_Adam, keras.optimizers.Adam):
    """Adam."""


@keras.saving.register_keras_serializable(PACKAGE)
class AdamW(_Adam, keras.optimizers.AdamW):
    """Adam with decoupled weight decay."""


@keras.saving.register_keras_serializable(PACKAGE)
class SGD(keras.optimizers.SGD):
    """SGD with momentum."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one weight."""
        if not self.momentum or not _has_kernel(gradient):
            super().update_step(gradient, variable, learning_rate)
            return
        from tensorflow import raw_ops

        dtype = variable.dtype
        raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=keras.ops.cast(learning_rate, dtype),
            grad=keras.ops.cast(gradient, dtype),
            momentum=keras.ops.cast(self.momentum, dtype),
            use_nesterov=self.nesterov,
        )


ONE_PASS: dict[str, Any] = {"sgd": SGD, "adamw": AdamW}
