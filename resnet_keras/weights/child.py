"""Run in a process of its own: turns an HDF5 file or a checkpoint of torch into safetensors.

Only `isolated.py` starts it, as a script: it imports nothing of this package. Both formats are
read by large libraries of C code that were not made for hostile files. What goes wrong is one line
on standard error, which goes on from the name of the file.
"""

import contextlib
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

# Memory beyond what the libraries take, over the size of the file: read, converted, written.
_MEMORY_FACTOR, _MEMORY_EXTRA = 6, 1 << 30
# Where programs put the tensors beside other things.
_NESTED = ("state_dict", "model")
# Groups that hold the state of an optimizer or of random numbers, not weights.
_NO_WEIGHTS = {"optimizer", "optimizer_weights", "seed_generator"}
_KERAS_3, _KERAS_2 = "vars", "model_weights"
# What TensorFlow puts behind the names of variables.
_OUTPUT = re.compile(r":\d+$")
# What h5py raises for damaged files, depending on the byte.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError)


class Refused(Exception):  # noqa: N818 (the word of the sentence that it is)
    """Raised with the sentence that says what is wrong with the file, without its name."""


def _limit_memory(size: int) -> None:
    """Lets the process take what a file of this size explains, and leave no core behind."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[5]) * resource.getpagesize()
        limit = used + _MEMORY_FACTOR * size + _MEMORY_EXTRA
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def read_torch(source: str) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint by its own names."""
    import torch

    torch.set_num_threads(1)
    size = os.path.getsize(source)
    _limit_memory(size)
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused(
            "holds more than tensors, which could run code, or is damaged; save it with "
            "torch.save(model.state_dict(), PATH), or fetch it again."
        ) from error
    tensors = _state(loaded, torch.Tensor)
    # An expanded tensor may claim any size: it is measured before anything is made of it.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > size:
        raise Refused("claims larger tensors than the file holds.")
    return {name: _to_numpy(tensor, torch) for name, tensor in tensors.items()}


def _state(loaded: Any, kind: type) -> dict[str, Any]:
    for key in 2 * _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise Refused(f"holds {type(loaded).__name__} instead of tensors by their names.")
    strange = sorted(str(name) for name, item in loaded.items() if not isinstance(item, kind))
    if strange:
        raise Refused(
            f"holds things that are no tensors: {', '.join(strange[:10])}; save it with "
            "torch.save(model.state_dict(), PATH)."
        )
    return {str(name): tensor for name, tensor in loaded.items()}


def _to_numpy(tensor: Any, torch: Any) -> np.ndarray:
    tensor = tensor.detach().to_dense()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.ascontiguousarray(tensor.numpy())


def read_h5(source: str) -> dict[str, np.ndarray]:
    """Returns the weights of an HDF5 file that Keras wrote, by `layer/variable`.

    Both are numbers where the file has no names for them. Arrays must lie in the file itself, as
    they are: links, virtual, external and compressed arrays are refused, and so is whatever
    claims more bytes than the file has.
    """
    import h5py

    size = os.path.getsize(source)
    _limit_memory(size)
    try:
        # A lock would refuse files on read-only and on network disks.
        with h5py.File(source, "r", locking=False) as file:
            return _H5Reader(file, size).tensors()
    except _DAMAGE as error:
        raise Refused(
            f"is damaged or truncated: {_first_line(error)}; copy or download it again."
        ) from error


class _H5Reader:
    def __init__(self, file: Any, size: int) -> None:
        self.file = file
        self.left = size
        self.seen: set[int] = set()

    def tensors(self) -> dict[str, np.ndarray]:
        tensors: dict[str, np.ndarray] = {}
        for path, dataset in self._datasets(self.file, ()):
            name = self._name(path)
            if name in tensors:
                self._refuse(f"two arrays under the name {name}")
            tensors[name] = self._array(dataset)
        return tensors

    def _refuse(self, what: str) -> NoReturn:
        raise Refused(f"holds {what}, which is never read; save the weights again.")

    def _datasets(self, group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Yields all arrays of weights below a group, with their paths."""
        import h5py

        for name in group:
            below = (*path, name)
            if name in _NO_WEIGHTS:
                continue
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                self._refuse(f"the link {'/'.join(below)} to another place")
            item = group[name]
            # The address shows a second way to the same object, and so a circle.
            address = h5py.h5o.get_info(item.id).addr
            if address in self.seen:
                self._refuse(f"the object {'/'.join(below)} twice")
            self.seen.add(address)
            if isinstance(item, h5py.Group):
                yield from self._datasets(item, below)
            elif isinstance(item, h5py.Dataset):
                yield below, item

    def _name(self, path: tuple[str, ...]) -> str:
        *groups, variable = path
        if groups[-1:] == [_KERAS_3]:
            # Keras has written the names of layers since 3.7.
            name = self.file["/".join(groups)].attrs.get("name")
            layer = name if isinstance(name, str) else "/".join(groups[:-1])
            return f"{layer}/{variable}"
        if groups[:1] == [_KERAS_2]:
            groups = groups[1:]
        return f"{groups[0] if groups else ''}/{_OUTPUT.sub('', variable)}"

    def _array(self, dataset: Any) -> np.ndarray:
        import h5py
        import ml_dtypes

        plan = dataset.id.get_create_plist()
        plain = plan.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
        if not plain or plan.get_external_count() or plan.get_nfilters():
            self._refuse(f"the compressed, virtual or external array {dataset.name}")
        if dataset.shape is None or dataset.dtype.kind not in "fiubV":
            self._refuse(f"{dataset.name}, which is no array of numbers")
        if dataset.nbytes != dataset.id.get_storage_size() or dataset.nbytes > self.left:
            self._refuse(f"fewer bytes for {dataset.name} than its shape {dataset.shape} needs")
        self.left -= dataset.nbytes
        array = np.asarray(dataset[()])
        if array.dtype.kind == "V" and dataset.attrs.get("dtype") == "bfloat16":
            array = array.view(ml_dtypes.bfloat16)
        return array.astype(array.dtype.newbyteorder("="))


def _first_line(error: BaseException) -> str:
    text = str(error).strip("'\" \n").partition("\n")[0]
    return (text or type(error).__name__).rstrip(".")


def main(kind: str, source: str, target: str) -> None:
    """Reads `source`, which is of a kind, and writes `target`."""
    from safetensors.numpy import save_file

    readers: dict[str, Callable[[str], dict[str, np.ndarray]]] = {
        "h5": read_h5,
        "torch": read_torch,
    }
    save_file(readers[kind](source), target)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Refused as refused:
        sys.exit(str(refused))
    except MemoryError:
        sys.exit("needs more memory than its size explains; it is not read.")
    except Exception as error:
        sys.exit(f"could not be read: {_first_line(error)}.")
