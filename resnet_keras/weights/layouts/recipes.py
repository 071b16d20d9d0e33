"""Recipes that publishers use for all their weights, besides that of torch."""

from resnet_keras.records import Recipe

# keras/src/applications/imagenet_utils.py, mode "caffe", here in RGB order.
CAFFE = Recipe(mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0))
# [-1, 1]: mode "tf" there, IMAGENET_INCEPTION in timm.
SYMMETRIC = Recipe(mean=(127.5,) * 3, std=(127.5,) * 3)
