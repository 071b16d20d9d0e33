"""timm's networks with the weights of `parity_cases`; needs torch and timm."""

import re

import numpy as np
import torch

from tests.parity_cases import CASES, CLASSES, branch_end, values
from tests.torch_packages import without_operators

_KINDS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
# Beginning of a name of timm's -> layer of ours; `{}` stand for the groups of the pattern.
_PLAIN = (
    (r"conv1\.weight", "stem_conv"),
    (r"bn1\.", "stem_bn"),
    (r"layer(\d)\.(\d+)\.conv(\d)", "stage{}_block{}_{}_conv"),
    (r"layer(\d)\.(\d+)\.bn(\d)", "stage{}_block{}_{}_bn"),
    (r"layer(\d)\.(\d+)\.downsample\.0", "stage{}_block{}_shortcut_conv"),
    (r"layer(\d)\.(\d+)\.downsample\.1", "stage{}_block{}_shortcut_bn"),
    (r"fc\.", "logits"),
)
_DEEP = (
    (r"conv1\.0", "stem_1_conv"),
    (r"conv1\.1", "stem_1_bn"),
    (r"conv1\.3", "stem_2_conv"),
    (r"conv1\.4", "stem_2_bn"),
    (r"conv1\.6", "stem_3_conv"),
    (r"bn1\.", "stem_3_bn"),
    (r"layer(\d)\.(\d+)\.downsample\.1", "stage{}_block{}_shortcut_conv"),
    (r"layer(\d)\.(\d+)\.downsample\.2", "stage{}_block{}_shortcut_bn"),
    *_PLAIN[2:4],
    _PLAIN[-1],
)
_PREACTIVATION = (
    (r"stem\.conv\.", "stem_conv"),
    (r"stem\.conv(\d)", "stem_{}_conv"),
    (r"stem\.norm(\d)", "stem_{}_bn"),
    (r"stages\.(\d)\.blocks\.(\d+)\.norm1", "stage{}_block{}_preact_bn"),
    (r"stages\.(\d)\.blocks\.(\d+)\.norm2", "stage{}_block{}_1_bn"),
    (r"stages\.(\d)\.blocks\.(\d+)\.norm3", "stage{}_block{}_2_bn"),
    (r"stages\.(\d)\.blocks\.(\d+)\.conv(\d)", "stage{}_block{}_{}_conv"),
    (r"stages\.(\d)\.blocks\.(\d+)\.downsample", "stage{}_block{}_shortcut_conv"),
    (r"norm\.", "stage4_norm_bn"),
    (r"head\.fc", "logits"),
)


def our_name(name, patterns):
    """Returns the name that we give to a tensor of timm's."""
    for pattern, layer in patterns:
        if found := re.match(pattern, name):
            numbers = list(found.groups())
            if len(numbers) > 1:
                numbers[1] = int(numbers[1]) + 1  # torch counts blocks from 0
            if pattern.startswith("stages"):
                numbers[0] = int(numbers[0]) + 1
            layer = layer.format(*numbers)
            kind = name.rpartition(".")[2]
            if layer.endswith("_bn"):
                return f"{layer}/{_KINDS[kind]}"
            return f"{layer}/{'kernel' if kind == 'weight' else 'bias'}"
    raise KeyError(name)


def _patterns(name):
    if "v2" in name:
        return _PREACTIVATION
    return _DEEP if name.endswith("d") and "x" not in name else _PLAIN


def model(name, **options):
    """Returns timm's network of that name, for inference, with the weights of `values`."""
    with without_operators(torch):
        from timm import create_model
    network = create_model(name, num_classes=CLASSES, **options)
    end, patterns = branch_end(CASES[name]), _patterns(name)
    state = {}
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        shape = tuple(tensor.shape)
        if len(shape) == 4 and not key.startswith("head"):
            array = values(our_name(key, patterns), [shape[i] for i in (2, 3, 1, 0)], end)
            array = array.transpose(3, 2, 0, 1)
        elif len(shape) > 1:
            array = values(our_name(key, patterns), (shape[1], shape[0]), end).T.reshape(shape)
        else:
            array = values(our_name(key, patterns), shape, end)
        state[key] = torch.from_numpy(np.ascontiguousarray(array))
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return network.eval()


def calibrate(network, pictures):
    """Gives the batch norms the statistics that their inputs have on some pictures."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the average over all batches, not a moving one
    network.train()
    logits(network, pictures)
    return network.eval()


def logits(network, pictures):
    """Returns what the network makes of normalised pictures, `(batch, height, width, 3)`."""
    with torch.no_grad():
        batch = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
        return network(batch).numpy()
