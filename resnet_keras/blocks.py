"""The parts of the figure in the paper, as functions from tensor to tensor.

He et al. 2015, arXiv 1512.03385, figures 2 and 5; the stride of the bottleneck's variants is
said in `ResNetSpec`. Every convolution with a stride is padded explicitly and symmetrically:
Keras's "same" pads bottom and right only on even sizes, which weights from torch never saw.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from resnet_keras.layers import BatchNorm
from resnet_keras.specs import EXPANSION, STEM_FILTERS, ResNetSpec

BN_MOMENTUM = 0.9
# He et al. 2015, arXiv 1502.01852, in the fan-out form of torchvision.
HE_NORMAL = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of one network: its spec, and how the last gamma of a branch starts.

    Args:
        spec: The network.
        zero_init_residual: Whether the last gamma of each branch starts at 0, so that every
            block starts as the identity (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
    """

    spec: ResNetSpec
    zero_init_residual: bool = True

    def conv_bn(
        self,
        x: Any,
        filters: int,
        kernel: int,
        *,
        name: str,
        stride: int = 1,
        relu: bool = True,
        zero_gamma: bool = False,
    ) -> Any:
        """Applies convolution, batch norm and, unless `relu` is false, ReLU.

        Args:
            x: Features, `(batch, height, width, channels)`.
            filters: Output channels.
            kernel: Side of the square kernel, in pixels; odd.
            name: Start of the names of the layers.
            stride: Downsampling factor.
            relu: Whether ReLU follows.
            zero_gamma: Whether gamma starts at 0.

        Returns:
            Features, `(batch, ceil(height / stride), ceil(width / stride), filters)`.
        """
        if stride > 1 and kernel > 1:
            x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        x = keras.layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding="valid" if stride > 1 else "same",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(**HE_NORMAL),
            name=f"{name}_conv",
        )(x)
        x = BatchNorm(
            momentum=BN_MOMENTUM,
            epsilon=self.spec.bn_epsilon,
            gamma_initializer="zeros" if zero_gamma else "ones",
            name=f"{name}_bn",
        )(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def stem(self, x: Any) -> Any:
        """Applies the 7x7 convolution and the max pool: a quarter of the size, 64 channels."""
        x = self.conv_bn(x, STEM_FILTERS, 7, stride=2, name="stem")
        if self.spec.pool_padding == "symmetric":
            # After ReLU nothing is negative, so padding with zeros equals padding with -inf.
            x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        padding = "valid" if self.spec.pool_padding == "symmetric" else "same"
        return keras.layers.MaxPooling2D(3, 2, padding=padding, name="stem_pool")(x)

    def shortcut(self, x: Any, filters: int, *, stride: int, name: str) -> Any:
        """Returns `x` itself where the shape stays, else its projection."""
        if stride == 1 and x.shape[-1] == filters:
            return x
        return self.conv_bn(x, filters, 1, stride=stride, relu=False, name=f"{name}_shortcut")

    def basic_block(self, x: Any, width: int, *, stride: int, name: str) -> Any:
        """Adds two 3x3 convolutions to the shortcut."""
        branch = self.conv_bn(x, width, 3, stride=stride, name=f"{name}_1")
        branch = self._last(branch, width, 3, name=f"{name}_2")
        return _merge(branch, self.shortcut(x, width, stride=stride, name=name), name)

    def bottleneck_block(self, x: Any, width: int, *, stride: int, name: str) -> Any:
        """Adds a 1x1, a 3x3 and a 1x1 convolution to the shortcut."""
        filters = EXPANSION["bottleneck"] * width
        first, second = (stride, 1) if self.spec.variant == "v1" else (1, stride)
        branch = self.conv_bn(x, width, 1, stride=first, name=f"{name}_1")
        branch = self.conv_bn(branch, width, 3, stride=second, name=f"{name}_2")
        branch = self._last(branch, filters, 1, name=f"{name}_3")
        return _merge(branch, self.shortcut(x, filters, stride=stride, name=name), name)

    def _last(self, x: Any, filters: int, kernel: int, *, name: str) -> Any:
        zero_gamma = self.zero_init_residual
        return self.conv_bn(x, filters, kernel, relu=False, zero_gamma=zero_gamma, name=name)

    def stage(self, x: Any, index: int) -> Any:
        """Applies the blocks of stage `index`, 1 to 4; all stages but the first halve the size."""
        block = self.basic_block if self.spec.block == "basic" else self.bottleneck_block
        for number in range(1, self.spec.blocks[index - 1] + 1):
            stride = 2 if number == 1 and index > 1 else 1
            width = self.spec.widths[index - 1]
            x = block(x, width, stride=stride, name=f"stage{index}_block{number}")
        return x


def _merge(branch: Any, shortcut: Any, name: str) -> Any:
    x = keras.layers.Add(name=f"{name}_add")([branch, shortcut])
    return keras.layers.ReLU(name=f"{name}_out")(x)
