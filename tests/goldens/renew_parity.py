"""Renews `parity.json`, what timm's networks return: `python -m tests.goldens.renew_parity`.

Needs torch and timm: `pip install torch timm`. The file there was made with torch 2.13.0 and timm
1.0.31.
"""

import json
from pathlib import Path

from tests.parity_cases import CASES, SIZES, STRIDES, images
from tests.torch_models import logits, model


def main() -> None:
    """Writes the logits of each network at each size, and of some with dilation."""
    golden = {}
    for name in CASES:
        network = model(name)
        golden[name] = {str(size): _rounded(logits(network, images(size))) for size in SIZES}
        for stride in STRIDES.get(name, ()):
            dilated = model(name, output_stride=stride)
            golden[name][f"64/{stride}"] = _rounded(logits(dilated, images(64)))
        print(name, golden[name]["64"][0][:3])
    path = Path(__file__).parent / "parity.json"
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")


def _rounded(array):
    return [[float(f"{value:.7g}") for value in row] for row in array]


if __name__ == "__main__":
    main()
