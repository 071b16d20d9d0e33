"""The command line: one module a group of commands; TensorFlow is imported only inside them."""

from resnet_keras.cli.main import main as main
