"""Processes that fetch weights: without a network, on bad disks, at once, or until they die."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import time

from resnet_keras.weights.downloads import progress, store
from resnet_keras.weights.fetch import fetch

CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET = 0x10000000, 0x00020000, 0x40000000
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.weights_children"])


class Child:
    """A function of this module in a process of its own, under the environment of the caller."""

    def __init__(self, function, *arguments):
        self._results, results = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(
            target=_call, args=(results, dict(os.environ), function, arguments)
        )
        self.process.start()
        results.close()

    def result(self):
        """Waits for what the function returned, or for the text of what it raised."""
        value = self._results.recv() if self._results.poll(60) else "no result"
        self.process.join(60)
        self._results.close()
        return value


def _call(results, environment, function, arguments):
    os.environ.clear()
    os.environ.update(environment)
    try:
        value = function(*arguments)
    except BaseException as error:
        value = f"{type(error).__name__}: {error}"
    results.send(value)


def timed_refusal(file):
    """Returns the text of what fetching a file raised, and the seconds until then."""
    start = time.monotonic()
    try:
        fetch(file)
    except Exception as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - start
    raise AssertionError("nothing was raised")


def fetch_text(file):
    return str(fetch(file))


def fetch_without_network(file):
    isolate(network=False)
    return timed_refusal(file)


def fetch_under(mount, file):
    """Returns the refusal, and the names of the files on the file system that was mounted."""
    isolate(mount=mount)
    message, _ = timed_refusal(file)
    return message, [path.name for path in mount[0].rglob("*") if path.is_file()]


def fetch_limited(file):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return timed_refusal(file)[0]


def fetch_until_interrupted(file):
    # What a shell starts in the background ignores interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return fetch_text(file)
    except KeyboardInterrupt:
        return "interrupted"


def fetch_without_lock(file):
    store.locked = lambda path, wait: contextlib.nullcontext()
    return fetch_text(file)


def fetch_on_terminal(terminal, file):
    """Fetches a file with a terminal as standard error and little patience."""
    progress._PATIENCE = 0.2
    os.dup2(os.open(terminal, os.O_RDWR | os.O_NOCTTY), 2)
    return fetch_text(file)


def isolate(*, network=True, mount=None):
    """Gives this process its own mounts, and no network if it is to have none.

    Args:
        network: Whether it keeps the network.
        mount: A folder and the options under which a file system in memory is mounted there.

    Raises:
        PermissionError: If the system does not let it.
    """
    maps = {"setgroups": "deny", "uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}
    flags = CLONE_NEWUSER | CLONE_NEWNS | (0 if network else CLONE_NEWNET)
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise PermissionError("no namespaces here")
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    if mount:
        folder, options = mount
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            raise PermissionError("no mounts here")
