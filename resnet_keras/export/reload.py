"""A stranger's look at a SavedModel: TensorFlow and numpy alone, in a process of its own.

    python -P reload.py FOLDER INPUTS.npz OUTPUTS.npz

INPUTS holds `image` and the files `file_0`, `file_1`, ...; OUTPUTS gets the answers of `serve`,
and of `serve_bytes` where there is one, to all of them and to an empty batch.
"""

import sys

import numpy as np
import tensorflow as tf


def main(folder: str, inputs: str, outputs: str) -> None:
    """Runs the signatures of the SavedModel in `folder`."""
    loaded = tf.saved_model.load(folder)
    with np.load(inputs) as arrays:
        files = [arrays[name].tobytes() for name in arrays.files if name != "image"]
        given = {
            "serve": {"image": tf.constant(arrays["image"])},
            "serve_bytes": {"image_bytes": tf.constant(files)},
        }
    answers = {}
    for signature in given.keys() & set(loaded.signatures):
        ((name, batch),) = given[signature].items()
        for count in (len(batch), 0):
            outcome = loaded.signatures[signature](**{name: batch[:count]})
            answers.update({f"{signature}/{count}/{key}": each for key, each in outcome.items()})
    if any(name.split(".")[0] == "resnet_keras" for name in sys.modules):
        raise SystemExit("the SavedModel was not loaded by TensorFlow alone")
    np.savez(
        outputs, allow_pickle=False, **{name: _plain(answer) for name, answer in answers.items()}
    )


def _plain(answer: tf.Tensor) -> np.ndarray:
    array = answer.numpy()
    return array if array.dtype != object else np.array([text.decode() for text in array], str)


if __name__ == "__main__":
    main(*sys.argv[1:])
