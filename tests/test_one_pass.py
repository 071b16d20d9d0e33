"""The optimizers in one pass over memory, against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.training.one_pass import ONE_PASS

KERAS = {"sgd": keras.optimizers.SGD, "adamw": keras.optimizers.AdamW}
SHAPES = {"kernel": (3, 3, 4, 8), "gamma": (8,), "bias": (8,)}


def trained(make, *, steps=7, **options):
    """Returns the weights and the state after some steps, each with its own learning rate."""
    rng = np.random.default_rng(0)
    weights = [
        keras.Variable(rng.normal(0, 1, shape).astype("float32"), name=name)
        for name, shape in SHAPES.items()
    ]
    schedule = keras.optimizers.schedules.CosineDecay(0.05, decay_steps=10)
    optimizer = make(schedule, **options)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "bias"])
    optimizer.build(weights)
    for step in range(steps):
        sizes = 10.0 ** rng.uniform(-6, 1, len(weights))  # some below Adam's epsilon
        gradients = [
            rng.normal(0, size, shape) for size, shape in zip(sizes, SHAPES.values(), strict=True)
        ]
        gradients[1] *= step % 2
        optimizer.apply([keras.ops.convert_to_tensor(each, "float32") for each in gradients])
    return [np.asarray(each) for each in [*weights, *optimizer.variables]]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw", {"weight_decay": 0.01}),
        ("adamw", {"weight_decay": 0.01, "gradient_accumulation_steps": 2}),
        ("adamw", {"weight_decay": 0.0, "use_ema": True, "ema_momentum": 0.9}),
        ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        ("sgd", {"momentum": 0.9, "nesterov": False}),
        ("sgd", {"momentum": 0.9, "nesterov": True, "gradient_accumulation_steps": 3}),
        ("sgd", {"momentum": 0.0}),
    ],
)
def test_weights_and_state_are_those_of_keras(name, options):
    expected, found = (trained(each[name], **options) for each in (KERAS, ONE_PASS))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=3e-6)


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {}])
def test_gradients_of_single_rows_are_those_of_keras(options):
    found = []
    for make in (KERAS, ONE_PASS):
        table = keras.layers.Embedding(5, 3, embeddings_initializer="ones")
        table.build()
        optimizer = make["sgd" if options else "adamw"](0.1, **options)
        for rows in ([1, 3], [3, 3]):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(table(np.array(rows))))
            variables = table.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
        found.append(np.asarray(table.embeddings))
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("name", list(ONE_PASS))
def test_an_optimizer_comes_back_from_its_configuration(name):
    optimizer = ONE_PASS[name](0.1, weight_decay=0.02)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
