"""Gradients are summed group by group: the usual ones, and the same bits for any split."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras import build_resnet, freeze, unfreeze
from resnet_keras.batch_statistics import weighting
from resnet_keras.distribution.tree_sum import tree_sum
from resnet_keras.precision import computing_in
from resnet_keras.training.weight_gradients import WeightGradients, noting_layers
from tests.varied_network import drawn, varied_network

PICTURES, GROUPS = 16, 4


def gradients(network, pictures, groups, *, weights=None, compiled=False):
    @tf.function(jit_compile=compiled)
    def compute(values):
        with tf.GradientTape() as tape, weighting(weights):
            summed = WeightGradients(tape, groups)
            with noting_layers(network), summed.watching():
                logits = network(values, training=True)
            errors = tf.reduce_sum(tf.sin(logits), axis=1)
            total = tf.reduce_sum(errors if weights is None else errors * weights)
            total += tf.add_n(network.losses) if network.losses else 0.0
        return summed.of(total, network.trainable_variables)

    return compute(pictures)


def names_of(network):
    return [variable.path for variable in network.trainable_variables]


@pytest.mark.parametrize("compiled", [False, True], ids=["", "XLA"])
@pytest.mark.parametrize("weights", [None, np.repeat(np.float32([1, 0]), [13, 3])])
def test_they_are_the_usual_gradients(weights, compiled):
    keras.utils.set_random_seed(0)
    network = varied_network()
    pictures = drawn((PICTURES, 12, 12, 4))
    usual = gradients(network, pictures, None, weights=weights)
    found = gradients(network, pictures, GROUPS, weights=weights, compiled=compiled)
    for name, gradient, expected in zip(names_of(network), found, usual, strict=True):
        assert gradient.dtype == expected.dtype
        assert np.abs(expected).max() > 1e-4, name
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("use_bias", [True, False])
def test_other_weights_of_a_layer_than_kernel_and_bias_have_theirs_too(use_bias):
    inputs = keras.Input((4,))
    adapted = keras.layers.Dense(3, use_bias=use_bias)
    network = keras.Model(inputs, adapted(inputs))
    adapted.enable_lora(2)
    adapted.lora_kernel_b.assign(drawn((2, 3)))
    pictures = drawn((PICTURES, 4))
    usual = gradients(network, pictures, None)
    found = gradients(network, pictures, GROUPS)
    for gradient, expected in zip(found, usual, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


class Centred(keras.layers.Dense):
    """A layer in which pictures see each other."""

    def call(self, inputs):
        return super().call(inputs - keras.ops.mean(inputs, axis=0))


def test_layers_in_which_pictures_see_each_other_have_the_usual_gradients():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, Centred(3)(inputs))
    pictures = drawn((PICTURES, 4))
    usual = gradients(network, pictures, None)
    found = gradients(network, pictures, GROUPS)
    for gradient, expected in zip(found, usual, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_replicas_sum_up_to_the_same_bits(precision, replicas):
    keras.utils.set_random_seed(0)
    network = build_resnet(50, num_classes=3, width=0.25)
    freeze(network, through="stage2")
    unfreeze(network, start="stage3", batch_norm="affine")
    pictures = drawn((8 * GROUPS, 64, 64, 3)) * 100
    parts = pictures.reshape(GROUPS // replicas, replicas, 8, 64, 64, 3).swapaxes(0, 1)
    with computing_in(network, precision):
        whole = gradients(network, pictures, GROUPS)
        shares = [
            gradients(network, share.reshape(-1, 64, 64, 3), GROUPS // replicas) for share in parts
        ]
    for name, expected, *split in zip(names_of(network), whole, *shares, strict=True):
        np.testing.assert_array_equal(tree_sum(split), expected, err_msg=name)


def test_layers_are_as_they_were():
    network = varied_network()
    with noting_layers(network):
        assert "call" in vars(network.get_layer("strided"))
    assert not any("call" in vars(layer) for layer in network.layers)


def test_a_tree_is_not_put_into_another_order():
    # 1 vanishes beside 1e8: (a + c) + (b + d) is 2, and any other order gives another number.
    values = [tf.fill((4, 16), value) for value in (1e8, 1.0, -1e8, 1.0)]
    found = tf.function(lambda *given: tree_sum([each * 1.0 for each in given]))(*values)
    np.testing.assert_array_equal(found, np.full((4, 16), 2.0))
    odd = tree_sum([tf.constant(value) for value in (1e8, 1.0, -1e8)])
    assert float(odd) == 1.0
