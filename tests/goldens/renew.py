"""Accepts the current names and shapes of weights: `python -m tests.goldens.renew`."""

import json
from pathlib import Path

from resnet_keras.builder import build_resnet

PINNED = {
    "resnet18_v1.5": {"depth": 18},
    "resnet50_v1.5": {"depth": 50},
    "resnet50_v1": {"depth": 50, "variant": "v1"},
    "resnet18_v2": {"depth": 18, "variant": "v2"},
    "resnet50_v2d": {"depth": 50, "variant": "v2d"},
    "resnet18_d": {"depth": 18, "variant": "d"},
    "resnet18_v2_stage3": {
        "depth": 18,
        "variant": "v2",
        "last_stage": 3,
        "head": (8,),
        "head_normalization": "batch",
        "head_activation": "gelu",
    },
    "resnet20_cifar": {
        "depth": 20,
        "stem": "cifar",
        "shortcut": "A",
        "pooling": "both",
        "head": (8,),
    },
}


def main() -> None:
    """Writes one golden file for each network that is pinned."""
    for name, arguments in PINNED.items():
        model = build_resnet(**arguments)
        golden = {
            layer.name: {weight.name: list(weight.shape) for weight in layer.weights}
            for layer in model.layers
        }
        path = Path(__file__).parent / f"{name}.json"
        path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
