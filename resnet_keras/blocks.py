"""The parts of the figures in the papers, as functions from tensor to tensor.

He et al. 2015, arXiv 1512.03385, figures 2 and 5; pre-activation: He et al. 2016, arXiv
1603.05027, figure 4(e); the "d" variants: He et al. 2018, arXiv 1812.01187, figure 2; what the
variants change is said in `ResNetSpec`. Every convolution with a stride is padded explicitly and
symmetrically: Keras's "same" pads bottom and right only on even sizes, which weights from torch
never saw.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from resnet_keras.architectures import EXPANSION, ConvRole
from resnet_keras.batch_norm import BatchNorm
from resnet_keras.layers import DilatedAveragePooling2D, InfinityPadding2D, ZeroPaddedChannels
from resnet_keras.specs import Place, ResNetSpec

BN_MOMENTUM = 0.9
# He et al. 2015, arXiv 1502.01852, in the fan-out form of torchvision.
HE_NORMAL = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of one network: its spec, and what only matters before and in training.

    Args:
        spec: The network.
        zero_init_residual: Whether the last gamma of each branch starts at 0, so that every
            block starts as the identity (Goyal et al. 2017, arXiv 1706.02677, section 5.1); the
            last kernel, where pre-activation leaves no norm behind it.
        stochastic_depth: Share of the pictures for which the last block's branch is dropped in
            training; it grows linearly from the first block to the last (Huang et al. 2016,
            arXiv 1603.09382, section 3). Deviations: each picture draws for itself, and what
            stays is scaled in training instead of at inference.
    """

    spec: ResNetSpec
    zero_init_residual: bool = True
    stochastic_depth: float = 0.0

    def conv(
        self,
        x: Any,
        filters: int,
        kernel: int,
        *,
        name: str,
        role: ConvRole = "inner",
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        zero_kernel: bool = False,
    ) -> Any:
        """Applies a convolution that pads symmetrically.

        Args:
            x: Features, `(batch, height, width, channels)`.
            filters: Output channels.
            kernel: Side of the square kernel, in pixels; odd.
            name: Start of the names of the layers.
            role: What the convolution is in the network; the spec says which have a bias.
            stride: Downsampling factor.
            dilation: Distance of the kernel's taps, in pixels.
            groups: Groups that the channels are divided into.
            zero_kernel: Whether the kernel starts at 0.

        Returns:
            Features, `(batch, ceil(height / stride), ceil(width / stride), filters)`.
        """
        if stride > 1 and kernel > 1:
            x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        start = "zeros" if zero_kernel else keras.initializers.VarianceScaling(**HE_NORMAL)
        return keras.layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding="valid" if stride > 1 else "same",
            dilation_rate=dilation,
            groups=groups,
            use_bias=role in self.spec.conv_bias,
            kernel_initializer=start,
            name=f"{name}_conv",
        )(x)

    def norm(self, x: Any, *, name: str, relu: bool = True, zero_gamma: bool = False) -> Any:
        """Applies batch norm and, unless `relu` is false, ReLU."""
        x = BatchNorm(
            momentum=BN_MOMENTUM,
            epsilon=self.spec.bn_epsilon,
            gamma_initializer="zeros" if zero_gamma else "ones",
            name=f"{name}_bn",
        )(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def conv_bn(self, x: Any, filters: int, kernel: int, *, name: str, **conv: Any) -> Any:
        """Applies convolution (see `conv`), batch norm and ReLU."""
        return self.norm(self.conv(x, filters, kernel, name=name, **conv), name=name)

    def stem(self, x: Any) -> Any:
        """Applies the first convolutions and, but for CIFAR, the max pool: a quarter the size."""
        filters = self.spec.stem_filters
        if self.spec.stem == "cifar":
            return self._stem_end(x, filters, 3, stride=1, name="stem")
        if self.spec.deep_stem:
            x = self.conv_bn(x, filters // 2, 3, stride=2, role="stem", name="stem_1")
            x = self.conv_bn(x, filters // 2, 3, role="stem", name="stem_2")
            x = self._stem_end(x, filters, 3, stride=1, name="stem_3")
        else:
            x = self._stem_end(x, filters, 7, stride=2, name="stem")
        return self._stem_pool(x)

    def _stem_end(self, x: Any, filters: int, kernel: int, *, stride: int, name: str) -> Any:
        x = self.conv(x, filters, kernel, stride=stride, role="stem", name=name)
        bare = self.spec.preactivation and not self.spec.stem_norm
        return x if bare else self.norm(x, name=name)

    def _stem_pool(self, x: Any) -> Any:
        padding = self.spec.pool_padding
        if padding != "same":
            # After ReLU nothing is negative, so padding with zeros equals padding with -inf.
            bare = self.spec.preactivation and not self.spec.stem_norm and padding == "symmetric"
            pad = InfinityPadding2D if bare else keras.layers.ZeroPadding2D
            x = pad(1, name="stem_pool_pad")(x)
        valid = "same" if padding == "same" else "valid"
        return keras.layers.MaxPooling2D(3, 2, padding=valid, name="stem_pool")(x)

    def basic_block(self, x: Any, place: Place) -> Any:
        """Adds two 3x3 convolutions to the shortcut."""
        name, width = place.name, place.width
        entry = self._entry(x, name)
        branch = self.conv_bn(
            entry,
            width,
            3,
            stride=place.stride,
            dilation=place.entry_dilation,
            name=f"{name}_1",
        )
        branch = self._last(branch, width, 3, dilation=place.dilation, name=f"{name}_2")
        return self._merge(branch, self.shortcut(x, width, place, entry=entry), place)

    def bottleneck_block(self, x: Any, place: Place) -> Any:
        """Adds a 1x1, a 3x3 and a 1x1 convolution to the shortcut."""
        name, filters = place.name, EXPANSION["bottleneck"] * place.width
        width = self.spec.inner_width(place.width)
        first, second = (place.stride, 1) if self.spec.variant == "v1" else (1, place.stride)
        # The stride of v1 lies before the 3x3, which then sees what the dilation stands for.
        dilation = place.dilation if self.spec.variant == "v1" else place.entry_dilation
        entry = self._entry(x, name)
        branch = self.conv_bn(entry, width, 1, stride=first, name=f"{name}_1")
        branch = self.conv_bn(
            branch,
            width,
            3,
            stride=second,
            dilation=dilation,
            groups=self.spec.groups,
            name=f"{name}_2",
        )
        branch = self._last(branch, filters, 1, name=f"{name}_3")
        return self._merge(branch, self.shortcut(x, filters, place, entry=entry), place)

    def _entry(self, x: Any, name: str) -> Any:
        return self.norm(x, name=f"{name}_preact") if self.spec.preactivation else x

    def _last(self, x: Any, filters: int, kernel: int, *, name: str, dilation: int = 1) -> Any:
        # Without a shortcut, a branch of zeros would let nothing through.
        zero = self.zero_init_residual and self.spec.shortcut != "none"
        bare = self.spec.preactivation
        x = self.conv(
            x,
            filters,
            kernel,
            dilation=dilation,
            role="last",
            zero_kernel=zero and bare,
            name=name,
        )
        return x if bare else self.norm(x, relu=False, zero_gamma=zero, name=name)

    def shortcut(self, x: Any, filters: int, place: Place, *, entry: Any) -> Any | None:
        """Returns what the branch is added to: None, `x`, its projection, or `x` made to fit.

        Args:
            x: What the block gets.
            filters: Output channels of the block.
            place: Where the block stands.
            entry: What its branch gets: with pre-activation the norm and ReLU of `x`.
        """
        changes = x.shape[-1] != filters
        if self.spec.shortcut == "none":
            return None
        if self.spec.projects(place, changes=changes):
            return self._projection(entry, filters, place)
        if place.stride > 1:
            # A window of one pixel takes every second pixel of every second row.
            x = keras.layers.MaxPooling2D(1, place.stride, name=f"{place.name}_shortcut_pool")(x)
        return ZeroPaddedChannels(filters, name=f"{place.name}_shortcut_pad")(x) if changes else x

    def _projection(self, x: Any, filters: int, place: Place) -> Any:
        name, stride = f"{place.name}_shortcut", place.stride
        if self.spec.deep_stem and place.halves:
            x, stride = self._average(x, place, name=f"{name}_pool"), 1
        x = self.conv(x, filters, 1, stride=stride, role="shortcut", name=name)
        return x if self.spec.preactivation else self.norm(x, relu=False, name=name)

    def _average(self, x: Any, place: Place, *, name: str) -> Any:
        if place.stride == 1:
            return DilatedAveragePooling2D(place.entry_dilation, name=name)(x)
        return keras.layers.AveragePooling2D(2, place.stride, padding="same", name=name)(x)

    def _merge(self, branch: Any, shortcut: Any | None, place: Place) -> Any:
        name, rate = place.name, self.stochastic_depth * place.depth_share
        if rate and shortcut is not None:
            drop = keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")
            branch = drop(branch)
        if self.spec.preactivation:
            end = f"{name}_out"
            if shortcut is None:
                return keras.layers.Identity(name=end)(branch)
            return keras.layers.Add(name=end)([branch, shortcut])
        if shortcut is not None:
            branch = keras.layers.Add(name=f"{name}_add")([branch, shortcut])
        return keras.layers.ReLU(name=f"{name}_out")(branch)

    def stages(self, x: Any) -> Any:
        """Applies all blocks and, with pre-activation, the final norm and ReLU."""
        block = self.basic_block if self.spec.kind == "basic" else self.bottleneck_block
        for place in self.spec.places():
            x = block(x, place)
        if self.spec.preactivation:
            x = self.norm(x, name=f"stage{self.spec.end}_norm")
        return x
