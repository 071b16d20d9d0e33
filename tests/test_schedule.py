"""The head first, then the last stages: which phases that makes."""

import pytest

from resnet_keras.training import Phase
from resnet_keras.training.schedule import Schedule


def test_the_defaults_are_those_of_the_command():
    head, stages = Schedule().phases()
    assert head == Phase("head", epochs=5)
    assert stages == Phase("stage4", epochs=10)


def test_the_first_half_sees_small_pictures():
    phases = Schedule(epochs=5, small_size=96, start="stage3").phases()
    assert [(phase.start, phase.epochs, phase.image_size) for phase in phases] == [
        ("head", 5, None), ("stage3", 2, 96), ("stage3", 3, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "expected"), [((3, 0), [("head", 3)]), ((0, 2), [("stage4", 2)])]
)
def test_a_part_without_epochs_is_left_out(epochs, expected):
    phases = Schedule(head_epochs=epochs[0], epochs=epochs[1]).phases()
    assert [(phase.start, phase.epochs) for phase in phases] == expected


def test_both_parts_train_alike_but_for_what_is_about_the_stages():
    shared = {
        "optimizer": "sgd", "weight_decay": 0.01, "label_smoothing": 0.1, "ema": 0.9,
        "accumulate": 2, "class_balance": True,
    }  # fmt: skip
    found = Schedule(
        2, 4, "all", head_learning_rate=0.2, learning_rate=0.03, batch_norm="affine",
        layer_decay=0.7, small_size=64, **shared,
    ).phases()  # fmt: skip
    stages = {"learning_rate": 0.03, "batch_norm": "affine", "layer_decay": 0.7}
    assert found == (
        Phase("head", 2, learning_rate=0.2, **shared),
        Phase("all", 2, image_size=64, **stages, **shared),
        Phase("all", 2, **stages, **shared),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"small_size": 64, "epochs": 1}, "`small_size` needs `epochs` of 2 .* epochs=1"),
        ({"small_size": 64, "epochs": 0}, "`small_size` needs `epochs` of 2 .* epochs=0"),
        ({"head_epochs": 0, "epochs": 0}, "`head_epochs` or `epochs` must be at least 1"),
        ({"epochs": -1}, "`epochs` must not be negative. Received: -1"),
        ({"start": "head"}, "`start` must be a stage or 'all'"),
        ({"start": "stage5"}, "`start` must be one of"),
        ({"head_learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"layer_decay": 0.0, "epochs": 0}, "`layer_decay` must lie in"),
        ({"small_size": 8}, "`image_size` must be at least 32"),
    ],
)
def test_a_wrong_value_is_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)
