"""Weights: read from files and packages, verified, and loaded completely or not at all."""

from resnet_keras.weights.assign import load_weights, save_weights
from resnet_keras.weights.files import Weights, read_tensors, write_tensors
from resnet_keras.weights.onnx import read_onnx
from resnet_keras.weights.registry import REGISTRY, RegistryEntry, list_weights, weights_info
from resnet_keras.weights.sources import read_weights

__all__ = [
    "REGISTRY",
    "RegistryEntry",
    "Weights",
    "list_weights",
    "load_weights",
    "read_onnx",
    "read_tensors",
    "read_weights",
    "save_weights",
    "weights_info",
    "write_tensors",
]
