"""Accepts the current names and shapes of weights: `python -m tests.goldens.renew`."""

import json
from pathlib import Path

from resnet_keras.builder import build_resnet


def main() -> None:
    """Writes one golden file for each network that is pinned."""
    for depth, variant in ((18, "v1.5"), (50, "v1.5"), (50, "v1")):
        model = build_resnet(depth, variant=variant)
        golden = {
            layer.name: {weight.name: list(weight.shape) for weight in layer.weights}
            for layer in model.layers
        }
        path = Path(__file__).parent / f"resnet{depth}_{variant}.json"
        path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
