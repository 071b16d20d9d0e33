"""Networks of other libraries with weights that are not trivial, and the files that those write."""

import functools

import h5py
import keras
import numpy as np
from keras.src.applications import resnet as keras_resnet

DEPTHS = {
    18: ("basic_block", [2, 2, 2, 2]),
    34: ("basic_block", [3, 4, 6, 3]),
    50: ("bottleneck_block", [3, 4, 6, 3]),
}


def randomise(model, seed):
    """Gives all variables values of which none is neutral, and which keep activations in range."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        kind, shape = variable.path.rpartition("/")[2], variable.shape
        if not variable.trainable and "kernel" in kind:
            continue  # a constant of the architecture
        if "kernel" in kind:
            fan_in = np.prod(shape[:2] if "depthwise" in kind else shape[:-1])
            values = rng.normal(0, fan_in**-0.5, shape)
        elif kind in ("gamma", "moving_variance"):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(0, 0.3, shape)
        variable.assign(values.astype("float32"))
    return model


def keras_application(preact, counts=(3, 4, 6, 3), widths=(8, 16, 32, 64), classes=7):
    """Returns a network of keras.applications for any size, with logits instead of softmax."""
    stack = (
        keras_resnet.stack_residual_blocks_v2 if preact else keras_resnet.stack_residual_blocks_v1
    )
    strides = (2, 2, 2, 1) if preact else (1, 2, 2, 2)

    def stages(x):
        for number, (width, count, stride) in enumerate(
            zip(widths, counts, strides, strict=True), 2
        ):
            x = stack(x, width, count, stride1=stride, name=f"conv{number}")
        return x

    base = keras_resnet.ResNet(
        stages,
        preact=preact,
        use_bias=True,
        include_top=False,
        weights=None,
        input_shape=(None, None, 3),
    )
    return with_head(base, "predictions", classes)


def with_head(base, name, classes):
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(base.output)
    x = keras.layers.Dense(classes, name=name)(x)
    return keras.Model(base.input, x)


def keras_hub_backbone(depth, *, variant="v1.5"):
    import keras_hub

    block, counts = DEPTHS[depth]
    deep = variant == "d"
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[32, 32, 64] if deep else [64],
        input_conv_kernel_sizes=[3, 3, 3] if deep else [7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=counts,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type=f"{block}_vd" if deep else block,
        use_pre_activation=variant == "v2",
    )


def classification_model(depth, width, classes=7):
    """Returns the pre-activation network of classification_models for pixels in [0, 255].

    After its models/resnet.py: a batch norm on the pixels, a projection in the first block of
    every stage, epsilon 2e-5.
    """
    block, counts = DEPTHS[depth]
    norm = functools.partial(keras.layers.BatchNormalization, epsilon=2e-5)
    conv = functools.partial(keras.layers.Conv2D, use_bias=False)

    def padded(x, filters, side, **options):
        return conv(filters, side, **options)(keras.layers.ZeroPadding2D(side // 2)(x))

    def activated(x, name):
        return keras.layers.ReLU()(norm(name=name)(x))

    images = keras.Input((None, None, 3), name="data")
    x = norm(scale=False, name="bn_data")(images)
    x = activated(padded(x, 64, 7, strides=2, name="conv0"), "bn0")
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))
    for stage, count in enumerate(counts):
        filters = width * 2**stage
        for unit in range(count):
            name = f"stage{stage + 1}_unit{unit + 1}_"
            stride = 2 if stage and not unit else 1
            entry = activated(x, f"{name}bn1")
            if block == "basic_block":
                out = filters
                y = padded(entry, filters, 3, strides=stride, name=f"{name}conv1")
            else:
                out = 4 * filters
                y = conv(filters, 1, name=f"{name}conv1")(entry)
                y = activated(y, f"{name}bn2")
                y = padded(y, filters, 3, strides=stride, name=f"{name}conv2")
            last, side = ("2", 3) if block == "basic_block" else ("3", 1)
            y = padded(activated(y, f"{name}bn{last}"), out, side, name=f"{name}conv{last}")
            shortcut = x if unit else conv(out, 1, strides=stride, name=f"{name}sc")(entry)
            x = keras.layers.Add()([y, shortcut])
    x = keras.layers.GlobalAveragePooling2D(name="pool1")(activated(x, "bn1"))
    return keras.Model(images, keras.layers.Dense(classes, name="fc1")(x))


def resnext(widths=(64, 128, 256, 512), groups=32, classes=7):
    """Returns the ResNeXt-50 of keras-applications, whose groups are depthwise convolutions.

    The outputs of those are summed by a constant 1x1 convolution.
    """
    norm = functools.partial(keras.layers.BatchNormalization, epsilon=1.001e-5)
    conv = functools.partial(keras.layers.Conv2D, use_bias=False)

    def grouped(x, filters, stride, name):
        size = filters // groups
        x = keras.layers.ZeroPadding2D(1)(x)
        x = keras.layers.DepthwiseConv2D(
            3, stride, depth_multiplier=size, use_bias=False, name=f"{name}_2_conv"
        )(x)
        kernel = np.zeros((1, 1, filters * size, filters), np.float32)
        for i in range(filters):
            start = (i // size) * size * size + i % size
            kernel[:, :, start : start + size * size : size, i] = 1.0
        layer = conv(filters, 1, trainable=False, name=f"{name}_2_gconv")
        x = layer(x)
        layer.kernel.assign(kernel)
        return x

    def block(x, filters, stride, name, *, projected):
        out = (64 // groups) * filters
        shortcut = x
        if projected:
            shortcut = norm(name=f"{name}_0_bn")(
                conv(out, 1, strides=stride, name=f"{name}_0_conv")(x)
            )
        x = keras.layers.ReLU()(
            norm(name=f"{name}_1_bn")(conv(filters, 1, name=f"{name}_1_conv")(x))
        )
        x = keras.layers.ReLU()(norm(name=f"{name}_2_bn")(grouped(x, filters, stride, name)))
        x = norm(name=f"{name}_3_bn")(conv(out, 1, name=f"{name}_3_conv")(x))
        return keras.layers.ReLU()(keras.layers.Add()([shortcut, x]))

    images = keras.Input((None, None, 3))
    x = conv(64, 7, strides=2, name="conv1_conv")(keras.layers.ZeroPadding2D(3)(images))
    x = keras.layers.ReLU()(norm(name="conv1_bn")(x))
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))
    for stage, (count, filters) in enumerate(zip((3, 4, 6, 3), widths, strict=True), 2):
        for number in range(1, count + 1):
            stride = 2 if stage > 2 and number == 1 else 1
            x = block(x, filters, stride, f"conv{stage}_block{number}", projected=number == 1)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(classes, name="probs")(x))


def write_keras2(model, path, *, scope="{}"):
    """Writes weights as Keras 2.2 wrote the published files: a group a layer, with attributes.

    Args:
        model: The model.
        path: The file.
        scope: The name that TensorFlow gave a layer's variables; a second model in one session
            got "conv1_conv_1".
    """
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.4"
        for layer in model.layers:
            group = file.create_group(layer.name)
            variables = layer.trainable_weights + layer.non_trainable_weights
            kinds = [variable.path.rpartition("/")[2] for variable in variables]
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                kinds = [kind.replace("kernel", "depthwise_kernel") for kind in kinds]
            names = [f"{scope.format(layer.name)}/{kind}:0" for kind in kinds]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, variable in zip(names, variables, strict=True):
                values = keras.ops.convert_to_numpy(variable)
                group.create_dataset(name, values.shape, values.dtype)[...] = values
    return path


def forget_names(path):
    """Makes a file of Keras 3 what releases before 3.7 wrote: layers by class and number alone."""
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    return path


def pictures(size, count=2):
    return np.random.default_rng(size).uniform(0, 255, (count, size, size, 3)).astype("float32")


def spread_difference(found, expected):
    """Returns the largest difference, relative to the standard deviation of what is expected."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert expected.std() > 0.01
    return np.abs(found - expected).max() / expected.std()
