"""`tf.data` without the thread that tunes it."""

from __future__ import annotations

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the dataset with the tuning of `tf.data` off.

    The thread that tunes sleeps twice as long each time, up to a minute, and in TensorFlow 2.21
    the end of an epoch may wait for it to wake. What is left to tune takes its default, a thread
    a core.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
