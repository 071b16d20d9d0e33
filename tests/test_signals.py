"""Signals end a run at a step; more of them end it at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from resnet_keras.training.signals import SAME_SECONDS, stop_requests


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.05)


def test_a_request_that_comes_twice_at_once_is_one():
    with stop_requests() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        with pytest.raises(SystemExit) as ending:
            stop.leave()
    assert ending.value.code == 143


def test_a_second_ctrl_c_acts_at_once():
    with stop_requests() as stop:
        send(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_later_sigterm_acts_at_once():
    program = f"""
import os, signal, time
from resnet_keras.training.signals import stop_requests
with stop_requests():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({SAME_SECONDS + 0.1})
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert ended.returncode == -signal.SIGTERM


def test_a_request_to_another_process_is_taken_over():
    with stop_requests() as stop:
        stop.join()
        with pytest.raises(SystemExit):
            stop.leave()


def test_one_of_several_processes_does_not_leave_alone():
    with stop_requests(alone=False) as stop:
        send(signal.SIGTERM)
        assert not stop.is_agreed
        stop.join()
        assert stop.is_agreed
    with stop_requests() as stop:
        send(signal.SIGTERM)
        assert stop.is_agreed
