"""What networks cost: measured cuts, the weights of heads, and budgets."""

import keras
import numpy as np
import pytest

from resnet_keras import build_resnet
from resnet_keras.errors import TuningError
from resnet_keras.stages import split_at
from resnet_keras.tuning import budget
from resnet_keras.tuning.budget import Budget, Cost, head_params, measure

COSTS = {
    ("resnet18", 3): Cost(latency_ms=6.0, macs=1, params=2_800_000, channels=256),
    ("resnet18", 4): Cost(latency_ms=8.0, macs=2, params=11_200_000, channels=512),
    ("resnet50", 4): Cost(latency_ms=20.0, macs=3, params=23_500_000, channels=2048),
}


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    return build_resnet(18, num_classes=None, width=0.125)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(budget, "MEASURED_SECONDS", 0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cost_of_a_cut_is_that_of_the_part_before_it(backbone, quick, dtype):
    costs = measure(backbone, stages=(4, 2), image_size=64, dtype=dtype)
    part, _ = split_at(backbone, "stage2")
    assert list(costs) == [4, 2]
    assert costs[2].params == part.count_params()
    assert costs[4].params == backbone.count_params()
    assert costs[2].channels == part.output.shape[-1] == 16
    assert 0 < costs[2].macs < costs[4].macs
    assert all(cost.latency_ms > 0 for cost in costs.values())


def test_deeper_cut_of_a_whole_network_has_more_multiply_adds_and_takes_longer(quick):
    model = build_resnet(18, num_classes=None)
    costs = measure(model, stages=(1, 4), image_size=224, dtype="float32")
    # The table of the paper, without the dense layer of 1,000 classes.
    assert costs[4].macs == 1_814_073_344 - 512 * 1000
    assert costs[4].latency_ms > 1.2 * costs[1].latency_ms


def test_measured_network_is_the_backbone(backbone):
    program = budget._program(backbone, 4, (1, 64, 64, 3), dtype="float32")
    picture = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    expected = np.mean(backbone(picture, training=False), axis=(1, 2))
    np.testing.assert_allclose(program(picture), expected, rtol=1e-4, atol=1e-4)


def test_measuring_changes_no_weight_and_no_precision(backbone, quick):
    before = [np.array(weight) for weight in backbone.weights]
    measure(backbone, stages=(1,), image_size=32, dtype="bfloat16")
    assert all(layer.compute_dtype == "float32" for layer in backbone.layers)
    for old, weight in zip(before, backbone.weights, strict=True):
        np.testing.assert_array_equal(old, weight)


def test_stage_that_there_is_not_is_refused(backbone):
    with pytest.raises(ValueError, match="stage5"):
        measure(backbone, stages=(5,), image_size=32, dtype="float32")


NORMS = {
    "none": lambda: keras.layers.Identity(),
    "batch": lambda: keras.layers.BatchNormalization(),
    "layer": lambda: keras.layers.LayerNormalization(),
}


@pytest.mark.parametrize("normalization", NORMS)
@pytest.mark.parametrize("hidden_layers", [0, 1, 2])
@pytest.mark.parametrize("pooling", ["avg", "both"])
def test_weights_of_a_head_are_those_that_keras_counts(normalization, hidden_layers, pooling):
    values = {
        "pooling": pooling,
        "hidden_layers": hidden_layers,
        "normalization": normalization,
        **({"units": 24} if hidden_layers else {}),
    }
    layers = [keras.Input([64 if pooling == "avg" else 128])]
    for units in [24] * hidden_layers + [5]:
        layers += [NORMS[normalization](), keras.layers.Dense(units)]
    counted = keras.Sequential(layers).count_params()
    assert head_params(values, channels=64, classes=5) == counted
    cost = COSTS["resnet18", 3]
    whole = cost.with_head(values, classes=5)
    assert whole.params - cost.params == head_params(values, channels=256, classes=5)
    assert whole.latency_ms == cost.latency_ms


@pytest.mark.parametrize("normalization", NORMS)
def test_weights_of_a_head_are_those_of_the_network_with_it(backbone, normalization):
    values = {
        "pooling": "both", "hidden_layers": 2, "units": 24, "normalization": normalization,
    }  # fmt: skip
    model = build_resnet(
        18,
        num_classes=5,
        width=0.125,
        pooling="both",
        head=(24, 24),
        head_normalization=normalization,
    )
    head = head_params(values, channels=64, classes=5)
    assert model.count_params() == backbone.count_params() + head


def test_budget_lets_through_what_is_within_both_limits():
    assert Budget().fitting(COSTS) == COSTS
    assert list(Budget(max_latency_ms=8.0).fitting(COSTS)) == [("resnet18", 3), ("resnet18", 4)]
    assert list(Budget(max_latency_ms=8.0, max_params=3_000_000).fitting(COSTS)) == [
        ("resnet18", 3)
    ]
    assert Budget(max_params=10).allows(latency_ms=1e9, params=10)
    assert not Budget(max_params=10).allows(latency_ms=1.0, params=11)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_latency_ms": 5}, "budget of 5 ms: .* 6 ms and 2,800,000 parameters"),
        ({"max_params": 1000}, "budget of 1,000 parameters: .* resnet18 cut behind stage3"),
        ({"max_latency_ms": 1, "max_params": 1}, "budget of 1 ms and 1 parameters"),
    ],
)
def test_budget_that_nothing_fits_says_what_the_closest_needs(limits, said):
    with pytest.raises(TuningError, match=said):
        Budget(**limits).fitting(COSTS)


def test_sentence_says_what_a_network_needs_and_what_it_may():
    said = Budget(max_latency_ms=5).sentence(COSTS["resnet18", 3])
    assert "6 ms" in said
    assert "over the budget of 5 ms." in said


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["max_latency_ms", "max_params"])
def test_limit_must_be_positive(name, limit):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive number.*Received"):
        Budget(**{name: limit})
