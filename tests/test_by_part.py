"""Learning rates that fall from the head to the stem: the change of each weight, measured."""

import keras
import numpy as np
import pytest

from resnet_keras.builder import build_resnet
from resnet_keras.stages import part_of
from resnet_keras.training import Phase
from resnet_keras.training.by_part import rate_factors
from resnet_keras.training.optimizers import NO_DECAY, make_optimizer
from resnet_keras.training.plan import set_trainability
from tests.test_distribution import assert_equal, finish, outcome, start

DECAY = 0.5
# The exponent of each part of a network whose last stage is the fourth.
STEPS = {"head": 0, "stage4": 1, "stage3": 2, "stage2": 3, "stage1": 4, "stem": 5}


def build(**arguments):
    keras.utils.set_random_seed(0)
    # Gammas of 0 would stop the gradients of their branches in the first step.
    thin = {"width": 0.125, "num_classes": 3, "zero_init_residual": False}
    return build_resnet(18, **thin | arguments)


def changes(steps=1, *, network=None, gradient=None, **phase):
    """Returns by (part, layer, weight) what an optimizer makes of the gradients of a loss."""
    model = build(**network or {})
    phase = Phase(**{"start": "all", "warmup": 0.0, "batch_norm": "affine"} | phase)
    set_trainability(model, phase)
    variables = model.trainable_variables
    before = [np.array(variable, np.float64) for variable in variables]
    optimizer = make_optimizer(phase, 1000, 8)
    optimizer.build(variables)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        gradients = [rng.normal(0, 1, variable.shape) for variable in variables]
        if gradient is not None:
            gradients = [np.full_like(each, gradient) for each in gradients]
        optimizer.apply([keras.ops.convert_to_tensor(each, "float32") for each in gradients])
    return {
        (part_of(layer), layer.name, variable.name): np.array(variable) - before[place]
        for layer in model.layers
        for place, variable in enumerate(variables)
        if any(variable is own for own in layer.weights)
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_part_moves_by_the_power_of_the_factor_that_is_its_distance(optimizer):
    plain = changes(optimizer=optimizer, weight_decay=0.0)
    decayed = changes(optimizer=optimizer, weight_decay=0.0, layer_decay=DECAY)
    assert {part for part, *_ in plain} == set(STEPS)
    for key, change in plain.items():
        assert np.abs(change).max() > 1e-5, key
        # What is left of a weight near 1 after the subtraction is known to 1e-7.
        expected = DECAY ** STEPS[key[0]] * change
        np.testing.assert_allclose(decayed[key], expected, rtol=1e-4, atol=3e-7, err_msg=str(key))


def test_one_step_of_gradient_descent_is_exact():
    """Factor and rate are powers of 2, so no bit is rounded where a weight begins at 0."""
    rate = 2.0**-4
    phase = {"optimizer": "sgd", "weight_decay": 0.0, "learning_rate": rate, "gradient": 1.0}
    plain, decayed = changes(**phase), changes(**phase, layer_decay=DECAY)
    biases = [key for key in plain if key[2] in ("beta", "bias")]
    assert {part for part, *_ in biases} == set(STEPS)
    for key in biases:
        np.testing.assert_array_equal(decayed[key], DECAY ** STEPS[key[0]] * plain[key])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_decoupled_weight_decay_falls_alike_and_spares_what_it_always_spared(optimizer):
    rate, decay = 0.01, 0.1
    phase = {"optimizer": optimizer, "learning_rate": rate, "gradient": 0.0}
    found = changes(**phase, weight_decay=decay, layer_decay=DECAY)
    model = build()
    for (part, layer, name), change in found.items():
        weight = next(each for each in model.get_layer(layer).weights if each.name == name)
        share = 0.0 if name in NO_DECAY else rate * decay * DECAY ** STEPS[part]
        expected = -share * np.array(weight)
        np.testing.assert_allclose(change, expected, rtol=1e-3, atol=2e-7, err_msg=layer)
    assert any(np.any(change) for (part, *_), change in found.items() if part == "stage1")


def test_a_factor_of_almost_one_is_the_optimizer_of_keras():
    """The two are written apart; over some steps, with moments, decay and averages."""
    options = {"weight_decay": 0.05, "learning_rate": 0.01, "ema": 0.9, "steps": 4}
    for optimizer in ("sgd", "adamw"):
        plain = changes(**options, optimizer=optimizer)
        almost = changes(**options, optimizer=optimizer, layer_decay=1 - 1e-9)
        for key, change in plain.items():
            np.testing.assert_allclose(almost[key], change, atol=1e-6, err_msg=str(key))


def test_accumulated_gradients_move_the_parts_by_their_factors():
    options = {"weight_decay": 0.0, "optimizer": "sgd", "accumulate": 2, "gradient": 1.0}
    waiting = changes(**options, layer_decay=DECAY)
    assert not any(np.any(change) for change in waiting.values())
    plain, decayed = changes(2, **options), changes(2, **options, layer_decay=DECAY)
    for key, change in plain.items():
        expected = DECAY ** STEPS[key[0]] * change
        np.testing.assert_allclose(decayed[key], expected, rtol=1e-4, atol=3e-7)


def factors(model):
    found = rate_factors(model.trainable_variables, DECAY)
    layers = {id(own): part_of(layer) for layer in model.layers for own in layer.weights}
    parts = [layers[id(variable)] for variable in model.trainable_variables]
    return dict(zip(parts, found, strict=True))


def test_the_last_stage_that_there_is_comes_after_the_head():
    assert factors(build(last_stage=2)) == {
        "head": 1.0, "stage2": 0.5, "stage1": 0.25, "stem": 0.125,
    }  # fmt: skip
    model = build()
    set_trainability(model, Phase("stage3", batch_norm="affine"))
    assert factors(model) == {"head": 1.0, "stage4": 0.5, "stage3": 0.25}


@pytest.mark.slow
def test_two_devices_of_a_process_do_what_one_does(tmp_path):
    options = {"layer_decay": 0.5, "class_balance": True, "learning_rate": 0.01}
    for kind in ("one", "mirrored"):
        finish([start(kind, tmp_path, options)])
    assert_equal(outcome(tmp_path, "mirrored"), outcome(tmp_path, "one"))


@pytest.mark.parametrize("layer_decay", [0.0, 1.5, -1.0])
def test_a_factor_out_of_range_is_refused(layer_decay):
    with pytest.raises(ValueError, match=r"`layer_decay` must lie in \(0, 1\]"):
        Phase("all", layer_decay=layer_decay)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_compiled_model_is_saved_with_it_and_loads(tmp_path, name):
    model = build()
    phase = Phase("all", optimizer=name, layer_decay=0.5)
    model.compile(make_optimizer(phase, steps=4, batch_size=8), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before, after = model.optimizer.get_config(), loaded.optimizer.get_config()
    assert (after["layer_decay"], after["decay"]) == (0.5, 1e-4)
    assert before["learning_rate"] == after["learning_rate"]
