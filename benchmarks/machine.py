"""The machine that figures were measured on: a figure without it means nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

from resnet_keras.precision import choose_precision

# What decides how fast numbers of 32, 16 and 8 bits are multiplied, as Linux names it.
FLAGS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Machine:
    """Hardware and versions.

    Args:
        cpu: Model of the CPU.
        cores: Number of cores that the system sees.
        flags: Which of `FLAGS` the CPU has.
        memory: Bytes of memory.
        tensorflow: Version of TensorFlow.
        keras: Version of Keras.
        onednn: Whether TensorFlow uses the kernels of oneDNN.
        precision: What precision="auto" chooses.
        reason: Why it chooses that.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    memory: int
    tensorflow: str
    keras: str
    onednn: bool
    precision: str
    reason: str

    def __str__(self) -> str:
        return "\n".join([
            f"CPU        {self.cpu}, {self.cores} cores, {self.memory / 2**30:.1f} GiB",
            f"flags      {' '.join(self.flags) or 'none of ' + ' '.join(FLAGS)}",
            f"TensorFlow {self.tensorflow}, oneDNN {'on' if self.onednn else 'off'}",
            f"Keras      {self.keras}",
            f"precision  {self.precision} ({self.reason})",
        ])  # fmt: skip


def this_machine() -> Machine:
    """Returns the machine that this runs on."""
    facts = _cpu_facts()
    flags = facts.get("flags", "").split()
    choice = choose_precision()
    return Machine(
        cpu=facts.get("model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        flags=tuple(flag for flag in FLAGS if flag in flags),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        tensorflow=tf.__version__,
        keras=keras.__version__,
        # Its own rule for the default is not public: TF_ENABLE_ONEDNN_OPTS may be unset.
        onednn=_pywrap_util_port.IsMklEnabled(),
        precision=choice.dtype,
        reason=choice.reason,
    )


def _cpu_facts() -> dict[str, str]:
    """Returns what Linux says of the first CPU; nothing elsewhere."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            facts[name.strip()] = value.strip()
    return facts
