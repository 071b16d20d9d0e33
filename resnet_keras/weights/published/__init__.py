"""Weights that were published: one table a publisher, and the classes of ImageNet-1k."""

from __future__ import annotations

from resnet_keras.weights.published import (
    classification_models,
    keras_applications,
    keras_hub,
    open_nsfw,
    timm,
    torchvision,
)

ENTRIES = (
    *torchvision.ENTRIES,
    *timm.ENTRIES,
    *keras_applications.ENTRIES,
    *keras_hub.ENTRIES,
    *classification_models.ENTRIES,
    *open_nsfw.ENTRIES,
)
