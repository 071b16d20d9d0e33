"""Ours against stock Keras, in turn, in one process; not part of the package."""
