"""The weights of a model by name, to compare two of them."""

import numpy as np


def named_weights(model, prefix):
    return {
        f"{prefix}/{layer.name}/{weight.name}": np.array(weight)
        for layer in model.layers
        for weight in layer.weights
    }
