"""Searches over head and depth, on the engine of keras-tuner."""

from resnet_keras.tuning.hypermodel import ResNetHyperModel as ResNetHyperModel
from resnet_keras.tuning.search import tune as tune
