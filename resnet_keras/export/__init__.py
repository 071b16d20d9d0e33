"""Export: a network as a SavedModel that serves by itself, and its model card."""

from resnet_keras.export.decode import decode_pictures
from resnet_keras.export.model_card import write_model_card
from resnet_keras.export.saved_model import export_model
from resnet_keras.export.verify import verify_saved_model

__all__ = ["decode_pictures", "export_model", "verify_saved_model", "write_model_card"]
