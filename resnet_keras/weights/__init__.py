"""Weights: read from files and packages, verified, and loaded completely or not at all."""

from resnet_keras.weights.adapt import select_classes
from resnet_keras.weights.assign import head_layers, load_weights, save_weights
from resnet_keras.weights.files import Weights, read_tensors, write_tensors
from resnet_keras.weights.onnx import read_onnx
from resnet_keras.weights.registry import REGISTRY, RegistryEntry, list_weights, weights_info
from resnet_keras.weights.sources import read_weights

__all__ = [
    "REGISTRY",
    "RegistryEntry",
    "Weights",
    "head_layers",
    "list_weights",
    "load_weights",
    "read_onnx",
    "read_tensors",
    "read_weights",
    "save_weights",
    "select_classes",
    "weights_info",
    "write_tensors",
]
