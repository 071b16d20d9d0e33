"""Fused batch norm against Keras's own: outputs, gradients and moving statistics."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.builder import build_resnet


def pair(**arguments):
    """Returns our layer and Keras's with the same random weights."""
    layers = [kind(**arguments) for kind in (BatchNorm, keras.layers.BatchNormalization)]
    rng = np.random.default_rng(0)
    values = [rng.uniform(0.5, 1.5, 5) for _ in range(4)]
    for layer in layers:
        layer.build((None, 6, 7, 5))
        layer.set_weights(values)
    return layers


def run(layer, inputs, *, training):
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
    variables = [inputs, layer.gamma.value, layer.beta.value]
    return outputs, tape.gradient(loss, variables), layer.get_weights()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [4, 1])
def test_the_fused_kernel_agrees_with_keras(training, size):
    ours, theirs = pair(momentum=0.9, epsilon=1e-5)
    inputs = np.random.default_rng(1).normal(2, 3, (size, 6, 7, 5)).astype("float32")
    (y, gradients, weights), (y0, gradients0, weights0) = (
        run(layer, inputs, training=training) for layer in (ours, theirs)
    )
    np.testing.assert_allclose(y, y0, rtol=2e-5, atol=2e-5)
    for found, expected in zip(gradients, gradients0, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)
    for found, expected in zip(weights, weights0, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_kernel_is_fused_on_tensorflow():
    layer, _ = pair()
    graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(
        tf.TensorSpec((None, 6, 7, 5))
    )
    assert "FusedBatchNormV3" in {operation.type for operation in graph.graph.get_operations()}


def test_features_that_the_kernel_cannot_take_go_through_keras():
    ours, theirs = BatchNorm(), keras.layers.BatchNormalization()
    inputs = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    np.testing.assert_array_equal(ours(inputs, training=True), theirs(inputs, training=True))


def test_bfloat16_stays_bfloat16():
    layer = BatchNorm(dtype="mixed_bfloat16")
    outputs = layer(np.ones((2, 4, 4, 3)), training=True)
    assert outputs.dtype == "bfloat16"
    assert layer.moving_mean.dtype == "float32"


@pytest.mark.parametrize("trainable", [True, False])
def test_fixed_statistics_stay_in_fit_while_gamma_and_beta_train(trainable):
    inputs = keras.Input((4, 4, 3))
    layer = BatchNorm(fixed_statistics=True, trainable=trainable)
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(layer(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    before = [np.copy(value) for value in layer.get_weights()]
    x, y = np.random.default_rng(0).normal(3, 2, (8, 4, 4, 3)), np.ones((8, 3))
    model.fit(x, y, verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, layer.get_weights(), strict=True)]
    # gamma, beta; then moving mean and variance where trainable puts them.
    names = [weight.name for weight in layer.weights]
    assert dict(zip(names, moved, strict=True)) == {
        "gamma": trainable,
        "beta": trainable,
        "moving_mean": False,
        "moving_variance": False,
    }


def test_the_setting_survives_a_round_trip():
    layer = BatchNorm(fixed_statistics=True, epsilon=1e-5)
    assert BatchNorm.from_config(layer.get_config()).fixed_statistics


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_kernel_under_xla_agrees_with_keras(training):
    ours, theirs = pair(momentum=0.9, epsilon=1e-5)
    inputs = tf.constant(np.random.default_rng(1).normal(2, 3, (4, 6, 7, 5)), tf.float32)

    @tf.function(jit_compile=True)
    def compiled(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ours(x, training=training)
            loss = tf.reduce_sum(y**3)
        return y, tape.gradient(loss, [x, ours.gamma.value, ours.beta.value])

    y, gradients = compiled(inputs)
    y0, gradients0, weights0 = run(theirs, inputs, training=training)
    np.testing.assert_allclose(y, y0, rtol=2e-5, atol=2e-5)
    for found, expected in zip(gradients, gradients0, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    for found, expected in zip(ours.get_weights(), weights0, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_value_a_channel_has_no_variance():
    """Where N - 1 is 0 the kernel divides by something else; Keras's variance is 0."""
    ours, theirs = pair(momentum=0.9, epsilon=1e-5)
    inputs = np.random.default_rng(1).normal(2, 3, (1, 1, 1, 5)).astype("float32")
    (y, _, weights), (y0, _, weights0) = (
        run(layer, inputs, training=True) for layer in (ours, theirs)
    )
    # Keras multiplies mean and offset by 1 / sqrt(epsilon) = 316 before they cancel.
    np.testing.assert_allclose(y, y0, atol=1e-3)
    for found, expected in zip(weights, weights0, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_gradients_in_bfloat16_are_those_of_float32_rounded():
    ours, theirs = pair(momentum=0.9, epsilon=1e-5)
    half = BatchNorm(momentum=0.9, epsilon=1e-5, dtype="mixed_bfloat16")
    half.build((None, 6, 7, 5))
    half.set_weights(ours.get_weights())
    inputs = np.random.default_rng(1).normal(2, 3, (8, 6, 7, 5)).astype("float32")
    inputs = np.asarray(tf.cast(tf.cast(inputs, tf.bfloat16), tf.float32))
    _, gradients0, weights0 = run(theirs, inputs, training=True)
    y, gradients, weights = run(half, tf.cast(inputs, tf.bfloat16), training=True)
    assert y.dtype == tf.bfloat16
    assert [each.dtype.name for each in gradients] == ["bfloat16", "float32", "float32"]
    for found, expected in zip(gradients, gradients0, strict=True):
        found = tf.cast(found, tf.float32)
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    for found, expected in zip(weights, weights0, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def small_network(*, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(BatchNorm, "_can_fuse", lambda self, inputs, mask: False)
    keras.utils.set_random_seed(0)
    model = build_resnet(18, num_classes=3, width=0.25, zero_init_residual=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(3e-6, momentum=0.9), loss, jit_compile=False)
    return model


def test_losses_of_fifty_steps_are_those_of_keras(monkeypatch):
    """Steps so small that rounding is not amplified: at larger ones Keras differs from itself."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (16, 64, 64, 3)).astype("float32")
    losses = []
    for fused in (True, False):
        with monkeypatch.context() as patch:
            model = small_network(fused=fused, monkeypatch=patch)
            losses.append([model.train_on_batch(pictures, np.arange(16) % 3) for _ in range(50)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert losses[0][-1] < 0.7 * losses[0][0]


def test_a_trained_network_comes_back_from_its_files(tmp_path, monkeypatch):
    model = small_network(fused=True, monkeypatch=monkeypatch)
    pictures = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    model.train_on_batch(pictures, np.arange(8) % 3)
    expected = np.asarray(model(pictures, training=False))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(pictures, training=False), expected)
    model.export(tmp_path / "served", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(loaded.serve(pictures), expected, rtol=1e-4, atol=1e-5)


TWO_DEVICES = """
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from resnet_keras.batch_norm import BatchNorm

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
inputs = np.random.default_rng(0).normal(2, 3, (8, 4, 4, 5)).astype("float32")
found = []
for kind in (BatchNorm, keras.layers.BatchNormalization):
    with strategy.scope():
        model = keras.Sequential([keras.Input((4, 4, 5)), kind(momentum=0.9, epsilon=1e-5)])
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.fit(inputs, inputs**2, batch_size=8, epochs=2, shuffle=False, verbose=0)
    found.append([np.asarray(weight) for weight in model.get_weights()])
for ours, theirs in zip(*found, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
assert np.abs(found[0][2]).max() > 0.1, "the statistics must move"
"""


def test_on_two_devices_the_statistics_are_those_of_keras():
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
