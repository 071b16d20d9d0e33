"""torch, torchvision and timm as references, where they are installed."""

import contextlib
import importlib

import pytest


def import_or_skip(name):
    """Returns a module that needs torch, or skips the test that asks for it."""
    torch = pytest.importorskip("torch")
    with without_operators(torch):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            return pytest.skip(f"needs {error.name}: make test-references")


@contextlib.contextmanager
def without_operators(torch):
    """Lets torchvision be imported whose compiled operators are for another torch.

    Only its transforms are used, and by timm not even those.
    """
    register = torch.library.register_fake

    def skip_missing(name, *arguments, **options):
        if name.startswith("torchvision::"):
            return lambda function: function
        return register(name, *arguments, **options)

    torch.library.register_fake = skip_missing
    try:
        yield
    finally:
        torch.library.register_fake = register
