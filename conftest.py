"""The same kernels for every test on whatever CPU, and the public names in every doctest."""

import os
from typing import Any

import pytest

# Where a CPU multiplies bfloat16, "auto" would choose it, and with it other digits.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@pytest.fixture(autouse=True)
def public_names(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    """Puts what the examples call into their namespace."""
    if request.node.__class__.__name__ == "DoctestItem":
        import resnet_keras

        doctest_namespace |= {name: getattr(resnet_keras, name) for name in resnet_keras.__all__}
