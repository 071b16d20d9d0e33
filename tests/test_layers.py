"""Fused batch norm against Keras's own: outputs, gradients and moving statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.layers import BatchNorm


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
