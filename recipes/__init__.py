"""Short programs over the public names of `resnet_keras`; not part of the package."""
