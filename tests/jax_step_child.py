"""Takes one step on some of eight devices: python -m tests.jax_step_child NETWORK FILE KIND...

KERAS_BACKEND is jax, and XLA is told of eight devices. FILE gets, as KIND/PATH, what a step takes
from each weight on so many devices; KIND "usual" is the gradient of a plain function.
"""

import sys

import jax
import keras
import numpy as np

from resnet_keras import build_resnet, freeze, unfreeze
from resnet_keras.batch_statistics import weighting
from resnet_keras.distribution.global_replica import GlobalReplica
from resnet_keras.distribution.strategies import get_strategy
from resnet_keras.training.feed import Batch
from resnet_keras.training.jax_step import one_step
from tests.varied_network import drawn, varied_network

# Of eight groups of eight the last one is short.
SIZE, COUNT = 64, 61
TARGETS = np.eye(3, dtype=np.float32)[np.arange(SIZE) % 3]
WEIGHTS = np.repeat(np.float32([1, 0]), [COUNT, SIZE - COUNT])


def resnet():
    network = build_resnet(18, num_classes=3, width=0.25, zero_init_residual=False)
    freeze(network, through="stage2")
    unfreeze(network, start="stage3", batch_norm="affine")
    unfreeze(network, start="stage4", batch_norm="synchronized")
    return network


NETWORKS = {"resnet": (resnet, (64, 64, 3)), "varied": (varied_network, (12, 12, 4))}


def made(name):
    make, shape = NETWORKS[name]
    keras.utils.set_random_seed(0)
    return make(), 50 * drawn((SIZE, *shape))


def loss(targets, logits):
    return keras.losses.categorical_crossentropy(targets, logits, from_logits=True)


def strategy_of(devices):
    if devices == 1:
        return get_strategy("none")
    return keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:devices])


def taken(name, devices):
    """Returns what a step takes from each weight; with a rate of 1 it is the gradient."""
    replica = GlobalReplica(strategy_of(devices))
    with replica.scope():
        network, pictures = made(name)
        network.optimizer = keras.optimizers.SGD(1.0)
        network.optimizer.build(network.trainable_variables)
    before = {each.path: np.asarray(each) for each in network.trainable_variables}
    assert len(network.trainable_variables[0].value.devices()) == devices
    step = one_step(network, loss, replica, groups=None, jit_compile=True)
    step(Batch((pictures,), TARGETS, WEIGHTS), COUNT, 0.0)
    return {each.path: before[each.path] - each for each in network.trainable_variables}


def usual(name):
    """Returns the gradients of the mean loss."""
    network, pictures = made(name)
    others = [each.value for each in network.non_trainable_variables]

    def total(values, pictures):
        with weighting(WEIGHTS):
            logits, _, penalties = network.stateless_call(
                values, others, pictures, training=True, return_losses=True
            )
        return loss(TARGETS, logits) @ WEIGHTS / COUNT + sum(penalties)

    values = [each.value for each in network.trainable_variables]
    found = jax.jit(jax.grad(total))(values, pictures)
    return dict(zip((each.path for each in network.trainable_variables), found, strict=True))


def main(name, path, *kinds):
    found = {
        f"{kind}/{variable}": value
        for kind in kinds
        for variable, value in (usual(name) if kind == "usual" else taken(name, int(kind))).items()
    }
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
