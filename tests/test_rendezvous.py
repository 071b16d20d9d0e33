"""Processes that wait for each other on this machine: who is there, who is not, and the ports."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from resnet_keras.distribution.cluster import Cluster
from resnet_keras.distribution.rendezvous import meet, open_port
from resnet_keras.errors import WorkersError

# Meets, then opens its own port at once in both ways that a server may, and says how it went.
PROGRAM = """
import json, socket, sys, time
from resnet_keras.distribution.cluster import Cluster, split_address
from resnet_keras.distribution.rendezvous import meet
from resnet_keras.errors import WorkersError

addresses, index, seconds = json.loads(sys.argv[1])
start = time.monotonic()
try:
    meet(Cluster(tuple(addresses), index), seconds=seconds)
except WorkersError as error:
    print(json.dumps([str(error), time.monotonic() - start]))
    sys.exit()
port = split_address(addresses[index])[1]
for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
    with socket.socket() as server:
        if option:
            server.setsockopt(socket.SOL_SOCKET, option, 1)
        server.bind(("0.0.0.0", port))
        server.listen()
print(json.dumps(["go", time.monotonic() - start]))
"""


def loopback(count, host="127.0.0.1"):
    """Returns addresses of this machine on ports that are free."""
    held = [open_port(0) for _ in range(count)]
    with contextlib.ExitStack() as stack:
        return [f"{host}:{stack.enter_context(one).getsockname()[1]}" for one in held]


def port_of(address):
    return int(address.rpartition(":")[2])


@pytest.fixture
def start():
    """Returns a function that starts a process of a cluster."""
    with contextlib.ExitStack() as stack:

        def begin(addresses, index, seconds=20):
            command = [sys.executable, "-c", PROGRAM, json.dumps([addresses, index, seconds])]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield begin


def outcomes(*processes):
    """Returns what each process said, and the longest time that one of them took."""
    said = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert not err, err.decode()
        said.append(json.loads(out))
    return [sentence for sentence, _ in said], max(seconds for _, seconds in said)


def wait_for_listener(address):
    """Waits until the chief listens; the connection is a stranger's, which says nothing."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port_of(address)), timeout=5)
        except ConnectionRefusedError:
            time.sleep(0.05)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_all_go_on_together_and_their_ports_are_free_at_once(start, order):
    addresses = loopback(4)
    assert outcomes(*(start(addresses, index) for index in order))[0] == 4 * ["go"]


def test_nobody_goes_on_before_the_last_has_come(start):
    addresses = loopback(3)
    early = [start(addresses, index) for index in (0, 1)]
    time.sleep(2)
    assert [process.poll() for process in early] == [None, None]
    assert outcomes(*early, start(addresses, 2))[0] == 3 * ["go"]


def test_all_who_came_name_those_who_did_not(start):
    addresses = loopback(4)
    worker = start(addresses, 2)
    time.sleep(1)  # it looks for the chief from now on, five times a second
    said, seconds = outcomes(start(addresses, 0, 2), worker)
    missing = f"Worker 1 at {addresses[1]} and worker 3 at {addresses[3]}"
    assert said[0].startswith(f"{missing} never joined within 2 seconds: ")
    assert said[1] == said[0]
    assert addresses[2] not in said[0]
    assert seconds < 15


def test_a_long_list_of_missing_workers_is_counted():
    addresses = (*loopback(1), *(f"10.0.0.{index}:2222" for index in range(1, 200)))
    with pytest.raises(WorkersError, match=r"^Worker 1 at 10\.0\.0\.1:2222, .* and 194 more never"):
        meet(Cluster(addresses, 0), seconds=0.2)


def test_without_a_chief_a_worker_gives_up(start):
    addresses = loopback(2)
    with socket.socket() as kept:  # others get no port on which nobody listens yet
        kept.bind(("127.0.0.1", port_of(addresses[0])))
        said, seconds = outcomes(start(addresses, 1, 1.5))
    assert said[0].startswith(f"The chief at {addresses[0]} never answered within ")
    assert "(Connection refused)" in said[0]
    assert 1.5 <= seconds < 10


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("shared", [False, True])
def test_a_taken_port_is_named(index, shared):
    addresses = loopback(2)
    # A gRPC server would share its port with another one of the same user.
    taken = socket.create_server(("127.0.0.1", port_of(addresses[index])), reuse_port=shared)
    with taken, pytest.raises(WorkersError) as caught:
        meet(Cluster(tuple(addresses), index), seconds=5)
    role = f"worker {index}" if index else "the chief"
    assert str(caught.value) == (
        f"The port of {role} at {addresses[index]} must be free on its machine, but "
        f"{port_of(addresses[index])} is taken by another process: end that process, or choose "
        "another port in TF_CONFIG of all processes."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every port")
def test_a_forbidden_port_is_named():
    with pytest.raises(WorkersError, match=r"but 1 is closed \(Permission denied\)"):
        meet(Cluster(("127.0.0.1:1", "127.0.0.1:2"), 0), seconds=1)


def test_two_clusters_are_told_apart(start):
    addresses, others = loopback(2), loopback(3)
    chief = start(addresses, 0)
    said, seconds = outcomes(chief, start([addresses[0], *others], 2))
    assert said[0] == said[1]
    assert said[0].startswith("TF_CONFIG of worker 2, which called from ")
    assert f"lists other addresses than that of the chief at {addresses[0]}" in said[0]
    assert seconds < 15


def test_two_processes_of_one_index_are_told_apart(start):
    addresses = loopback(3)
    said, _ = outcomes(*(start(addresses, index) for index in (0, 1, 1)))
    assert len(set(said)) == 1
    assert f"in TF_CONFIG that they are worker 1 at {addresses[1]}" in said[0]


GARBAGE = [
    b"",
    b"\n",
    b"GET / HTTP/1.1\r\nHost: chief\r\n\r\n",
    b"\x16\x03\x01\x02\x00" + bytes(range(256)),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"[" * 4000 + b"\n",
    b"x" * 1_000_000,
    b"[1]\n",
    b'{"index": true, "cluster": "x"}\n',
    b'{"index": "1", "cluster": "x"}\n',
    b'{"index": 0, "cluster": "x"}\n',
    b'{"index": -1, "cluster": ""}\n',
    b'{"index": 1}\n',
    b'{"index": 1, "clus',
]


def test_strangers_neither_stop_nor_join_a_meeting(start):
    addresses = loopback(2)
    chief = start(addresses, 0)
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(wait_for_listener(addresses[0])) for _ in GARBAGE]
        for stranger, data in zip(strangers, GARBAGE, strict=True):
            with contextlib.suppress(ConnectionError):
                stranger.sendall(data)
        time.sleep(0.5)
        assert chief.poll() is None
        # They are still there, and the port is free all the same when the chief goes on.
        assert outcomes(chief, start(addresses, 1))[0] == ["go", "go"]


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_worker_takes_no_other_program_for_the_chief(start):
    addresses = loopback(2)
    server = http.server.HTTPServer(("127.0.0.1", port_of(addresses[0])), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        said, _ = outcomes(start(addresses, 1, 1))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "(what listens there is another program, or trains already)" in said[0]


def test_a_worker_that_died_may_come_back(start):
    addresses = loopback(3)
    chief, lost = start(addresses, 0), start(addresses, 1)
    with wait_for_listener(addresses[0]):
        time.sleep(1)
    lost.kill()
    lost.wait()
    again = start(addresses, 1)
    time.sleep(0.5)
    assert chief.poll() is None
    assert outcomes(chief, again, start(addresses, 2))[0] == 3 * ["go"]


def test_a_dead_worker_counts_as_missing(start):
    addresses = loopback(3)
    chief, lost = start(addresses, 0, 4), start(addresses, 1, 4)
    with wait_for_listener(addresses[0]):
        time.sleep(1)
    lost.kill()
    said, _ = outcomes(chief)
    assert said[0].startswith(f"Worker 1 at {addresses[1]} and worker 2 at {addresses[2]} never")


def test_a_chief_that_died_may_come_back(start):
    addresses = loopback(3)
    lost, worker = start(addresses, 0), start(addresses, 1)
    with wait_for_listener(addresses[0]):
        time.sleep(1)
    lost.kill()
    lost.wait()
    assert worker.poll() is None
    assert outcomes(start(addresses, 0), worker, start(addresses, 2))[0] == 3 * ["go"]


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no address of IPv6")
def test_addresses_may_be_of_ipv6(start):
    addresses = loopback(2, "[::1]")
    assert outcomes(start(addresses, 0), start(addresses, 1))[0] == ["go", "go"]


def test_a_name_that_is_not_known_yet_is_asked_for_again(monkeypatch):
    addresses = tuple(loopback(2))
    ask, asked = socket.getaddrinfo, []

    def not_yet(host, *rest, **more):
        asked.append(host)
        if host and len(asked) < 4:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *rest, **more)

    chief = threading.Thread(target=meet, args=(Cluster(addresses, 0),), kwargs={"seconds": 20})
    chief.start()
    monkeypatch.setattr(socket, "getaddrinfo", not_yet)
    meet(Cluster(addresses, 1), seconds=20)
    chief.join()
    assert asked.count("127.0.0.1") >= 4


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_name_that_is_never_known_ends_the_wait(host):
    (own,) = loopback(1)
    with pytest.raises(WorkersError, match=rf"^The chief at {host}:2222 never answered within"):
        meet(Cluster((f"{host}:2222", own), 1), seconds=0.5)
