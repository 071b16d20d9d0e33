"""Pictures from folders, arrays and TensorFlow Datasets, checked and ready for training."""

from resnet_keras.data.augment import Augmentation, flip_views
from resnet_keras.data.decode import read_image
from resnet_keras.data.folders import list_pictures
from resnet_keras.data.images import ImageData, Images
from resnet_keras.data.pipeline import load_images
from resnet_keras.data.random_layers import Augment
from resnet_keras.data.report import DataReport

__all__ = [
    "Augment",
    "Augmentation",
    "DataReport",
    "ImageData",
    "Images",
    "flip_views",
    "list_pictures",
    "load_images",
    "read_image",
]
