"""Small ResNets as ONNX files, written node by node in the forms that exporters use."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resnet_keras.architectures import DEPTHS

CLASSES = 5


class Export:
    """Writes the graph of a ResNet; each option is a habit of some exporter, or a fault."""

    def __init__(
        self,
        depth=18,
        *,
        variant="v1.5",
        width=0.125,
        norm="batch_norm",
        layout="NCHW",
        pool="symmetric",
        head="gemm",
        relu="relu",
        epsilon=1e-5,
        explicit_pads=False,
        hidden_kernels=False,
        shortcut_first=False,
        always_project=False,
        preactivation=False,
        normalise=None,
        reverse=None,
        second_input=False,
        blocks=None,
        stem=64,
        last_width=None,
        groups=1,
        resnext=(1, 64),
        deep=False,
        average=None,
        dilation=1,
        conv_pads=None,
        training_mode=0,
        precision="float32",
        shortcut_before_relu=False,
    ):
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})
        self.random = np.random.default_rng(depth)
        self.nodes, self.initializers, self.kernels, self.norms = [], [], {}, {}
        self.bottleneck = DEPTHS[depth][0] == "bottleneck"
        self.epsilons = epsilon if isinstance(epsilon, tuple) else (epsilon,)
        self.channels = {"image": 3}

    def save(self, path: Path) -> Path:
        onnx.save(self.model(), path)
        return path

    def model(self):
        x = self.stem_of("image")
        blocks = self.blocks or DEPTHS[self.depth][1]
        for index, count in enumerate(blocks, start=1):
            width = round(64 * 2 ** (index - 1) * self.width)
            width = self.last_width if self.last_width and index == len(blocks) else width
            for number in range(1, count + 1):
                stride = 2 if number == 1 and index > 1 else 1
                x = self.block(x, width, stride=stride, name=f"stage{index}_block{number}")
        x = self.head_of(x)
        sides = [None, None, None, None]
        sides[self.layout.index("C")] = 3
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, sides)]
        if self.second_input:
            inputs.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, sides))
        graph = helper.make_graph(
            self.nodes,
            "resnet",
            inputs,
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
            self.initializers,
        )
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 15)])

    def node(self, kind, inputs, output, **values):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **values))
        self.channels[output] = self.channels.get(inputs[0])
        return output

    def tensor(self, name, array):
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(self.precision)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def stem_of(self, x):
        if self.reverse == "gather":
            indices = self.tensor("bgr", np.array([2, 1, 0]))
            x = self.node("Gather", [x, indices], "reversed", axis=1)
        if self.reverse == "slice":
            ends = {"starts": [-1], "ends": [-(2**31)], "axes": [1], "steps": [-1]}
            names = [self.tensor(name, np.array(value)) for name, value in ends.items()]
            x = self.node("Slice", [x, *names], "reversed")
        if self.normalise:
            mean, std = (np.full((1, 3, 1, 1), value, np.float32) for value in self.normalise)
            x = self.node("Sub", [x, self.tensor("picture_mean", mean)], "centred")
            x = self.node("Div", [x, self.tensor("picture_std", std)], "normalised")
        if self.deep:
            for number, filters in enumerate((self.stem // 2, self.stem // 2), start=1):
                name, stride = f"stem_{number}", 2 if number == 1 else 1
                x = self.activate(
                    self.conv_norm(x, filters, 3, stride=stride, name=name), f"{name}_relu"
                )
            x = self.conv_norm(x, self.stem, 3, stride=1, name="stem_3")
        else:
            x = self.conv_norm(x, self.stem, 7, stride=2, name="stem")
        return self.max_pool(self.activate(x, "stem_relu"))

    def max_pool(self, x):
        if self.pool == "none":
            return x
        values = {
            "symmetric": {"pads": [1, 1, 1, 1]},
            "same": {"pads": [0, 0, 1, 1]},
            "same_upper": {"auto_pad": "SAME_UPPER"},
            "same_lower": {"auto_pad": "SAME_LOWER"},
            "ceil": {"ceil_mode": 1},
        }.get(self.pool, {})
        x = self.to_nchw(x, "pool")
        if self.pool == "padded":
            x = self.pad(x, [0, 0, 1, 1, 0, 0, 1, 1], "pool_pad")
        if self.pool == "edge":
            x = self.pad(x, [0, 0, 0, 0, 0, 0, 1, 1], "pool_pad", mode="edge")
        x = self.node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], **values)
        return self.from_nchw(x, "pool")

    def block(self, x, width, *, stride, name):
        filters = width * (4 if self.bottleneck else 1)
        project = self.always_project or stride > 1 or self.channels[x] != filters
        shortcut = x
        if self.shortcut_before_relu and x.endswith("_out"):
            shortcut = x.replace("_out", "_add")
        if self.shortcut_first and project:
            shortcut = self.projection(x, filters, stride, name)
        branch = self.branch(x, width, stride=stride, name=name)
        if not self.shortcut_first and project:
            shortcut = self.projection(x, filters, stride, name)
        x = self.node("Add", [branch, shortcut], f"{name}_add")
        if self.relu == "not after sums":
            return x
        return self.activate(x, f"{name}_out")

    def projection(self, x, filters, stride, name):
        if self.average and (stride > 1 or self.average == "everywhere"):
            way = {"auto_pad": "SAME_UPPER"} if self.average == "same" else {"ceil_mode": 1}
            way = {} if self.average == "floor" else way
            sides = {"kernel_shape": [2, 2], "strides": [2, 2]}
            x = self.node("AveragePool", [x], f"{name}_average", **sides, **way)
            stride = 1
        return self.conv_norm(x, filters, 1, stride=stride, name=f"{name}_shortcut")

    def branch(self, x, width, *, stride, name):
        if not self.bottleneck:
            plan = [(width, 3, stride), (width, 3, 1)]
        else:
            first, second = (stride, 1) if self.variant == "v1" else (1, stride)
            inner = int(width * self.resnext[1] / 64) * self.resnext[0]
            plan = [(inner, 1, first), (inner, 3, second), (4 * width, 1, 1)]
        if self.preactivation:
            x = self.activate(self.batch_norm(x, f"{name}_0"), f"{name}_0_relu")
        for index, (filters, kernel, step) in enumerate(plan, start=1):
            x = self.conv_norm(x, filters, kernel, stride=step, name=f"{name}_{index}")
            x = self.activate(x, f"{name}_{index}_relu") if index < len(plan) else x
        return x

    def activate(self, x, name):
        if self.relu == "relu6":
            limits = [self.tensor(f"{name}_{i}", np.float32(i)) for i in (0, 6)]
            return self.node("Clip", [x, *limits], name)
        if self.relu == "quantised":
            scale = self.tensor(f"{name}_scale", np.float32(0.1))
            x = self.node("QuantizeLinear", [x, scale], f"{name}_quantised")
            x = self.node("DequantizeLinear", [x, scale], f"{name}_dequantised")
        return self.node("LeakyRelu" if self.relu == "leaky" else "Relu", [x], name)

    def conv_norm(self, x, filters, side, *, stride, name):
        grouped = self.groups if name == "stage1_block1_1" else 1
        if self.bottleneck and side == 3:
            grouped = self.resnext[0]
        shape = (filters, self.channels[x] // grouped, side, side)
        scale = np.sqrt(2 / (shape[1] * side * side))
        kernel = self.random.normal(0, scale, shape).astype(np.float32)
        self.kernels[name] = kernel
        values = {"strides": [stride] * 2, "kernel_shape": [side] * 2, "group": grouped}
        pads = [side // 2] * 4
        if self.conv_pads and side == 3 and stride == 2:
            pads = list(self.conv_pads)
        if side == 3 and self.dilation > 1:
            values |= {"dilations": [self.dilation] * 2}
            pads = [self.dilation] * 4
        inputs = [self.to_nchw(x, name), self.kernel(kernel, name)]
        if self.explicit_pads and side > 1:
            inputs[0] = self.pad(inputs[0], [0, 0, *pads[:2], 0, 0, *pads[2:]], f"{name}_pad")
            pads = [0] * 4
        if self.norm != "batch_norm":
            inputs += [self.conv_bias(filters, name)] if self.norm != "chain" else []
        out = self.node("Conv", inputs, f"{name}_conv", pads=pads, **values)
        self.channels[out] = filters
        return self.normalised(out, name)

    def kernel(self, kernel, name):
        if not self.hidden_kernels:
            return self.tensor(f"{name}_kernel", kernel)
        value = numpy_helper.from_array(kernel.transpose(2, 3, 1, 0).reshape(-1))
        self.node("Constant", [""], f"{name}_flat", value=value)
        shape = self.tensor(f"{name}_shape", np.array(kernel.shape)[[2, 3, 1, 0]])
        hwio = self.node("Reshape", [f"{name}_flat", shape], f"{name}_hwio")
        oihw = self.node("Transpose", [hwio], f"{name}_oihw", perm=[3, 2, 0, 1])
        return self.node("Identity", [oihw], f"{name}_kernel")

    def conv_bias(self, filters, name):
        bias = self.random.normal(0, 0.2, filters).astype(np.float32)
        self.norms[name] = {"bias": bias}
        return self.tensor(f"{name}_bias", bias)

    def normalised(self, x, name):
        if self.norm == "chain":
            return self.chain(self.from_nchw(x, f"{name}_conv"), name)
        if self.norm != "folded":
            x = self.batch_norm(x, name)
        return self.from_nchw(x, f"{name}_conv")

    def batch_norm(self, x, name):
        norm = self.statistics(self.channels[x])
        self.norms[name] = {**self.norms.get(name, {}), **norm}
        inputs = [self.tensor(f"{name}_{key}", value) for key, value in norm.items()]
        epsilon = self.epsilons[len(self.norms) % len(self.epsilons)]
        mode = {"training_mode": self.training_mode} if self.training_mode else {}
        return self.node("BatchNormalization", [x, *inputs], f"{name}_bn", epsilon=epsilon, **mode)

    def statistics(self, channels):
        return {
            "gamma": self.random.uniform(0.5, 1.0, channels).astype(np.float32),
            "beta": self.random.normal(0, 0.2, channels).astype(np.float32),
            "mean": self.random.normal(0, 0.2, channels).astype(np.float32),
            "variance": self.random.uniform(0.5, 1.5, channels).astype(np.float32),
        }

    def chain(self, x, name):
        """Writes a batch norm as Add, Sub, Mul, Div and Add, with constants on either side."""
        norm = self.statistics(self.channels[x])
        shape = [-1 if axis == "C" else 1 for axis in self.layout]
        deviation = np.sqrt(norm["variance"] + np.float32(1e-5))
        plan = [
            ("Add", norm["gamma"], True),
            ("Sub", norm["mean"], False),
            ("Mul", norm["gamma"], True),
            ("Div", deviation, False),
            ("Sub", norm["beta"], True),
            ("Mul", -np.ones_like(deviation), False),
        ]
        for index, (kind, constant, first) in enumerate(plan):
            label = f"{name}_chain{index}"
            hidden = self.tensor(f"{label}_raw", constant.reshape(shape))
            hidden = self.node("Identity", [hidden], f"{label}_constant")
            kept = self.channels[x]
            x = self.node("Cast", [x], f"{label}_cast", to=TensorProto.FLOAT)
            x = self.node(kind, [hidden, x] if first else [x, hidden], label)
            self.channels[x] = kept
        return x

    def head_of(self, x):
        if self.head == "none":
            return x
        channels, axes = self.channels[x], [self.layout.index(axis) for axis in "HW"]
        kernel = self.random.normal(0, 0.1, (CLASSES, channels)).astype(np.float32)
        bias = self.tensor("fc_bias", self.random.normal(0, 1, CLASSES).astype(np.float32))
        if self.head == "conv":
            x = self.node("GlobalAveragePool", [self.to_nchw(x, "head")], "mean")
            weight = self.tensor("fc", kernel[:, :, None, None])
            x = self.node("Conv", [x, weight, bias], "fc_out")
            return self.node("Flatten", [x], "logits")
        if self.head == "matmul":
            x = self.node("ReduceMean", [x], "mean", axes=axes, keepdims=0)
            x = self.node("MatMul", [x, self.tensor("fc", kernel.T)], "fc_out")
            return self.node("Add", [bias, x], "logits")
        x = self.node("ReduceMean", [x], "mean", axes=axes, keepdims=1)
        x = self.node("Flatten", [x], "flat")
        if self.head == "gemm_plain":
            weight = self.tensor("fc", kernel.T)
            return self.node("Gemm", [x, weight, bias], "logits", alpha=0.5, beta=2.0)
        return self.node("Gemm", [x, self.tensor("fc", kernel), bias], "logits", transB=1)

    def pad(self, x, amounts, name, **values):
        amounts = self.tensor(f"{name}_amounts", np.array(amounts))
        return self.node("Pad", [x, amounts], name, **values)

    def to_nchw(self, x, name):
        if self.layout == "NCHW":
            return x
        return self.node("Transpose", [x], f"{name}_to_nchw", perm=[0, 3, 1, 2])

    def from_nchw(self, x, name):
        if self.layout == "NCHW":
            return x
        return self.node("Transpose", [x], f"{name}_to_nhwc", perm=[0, 2, 3, 1])
