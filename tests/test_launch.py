"""Processes that live and die together, and the command that starts them."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest

from resnet_keras.cli.launch import CONFIG
from resnet_keras.distribution.cluster import Cluster
from resnet_keras.distribution.launch import THREADS, supervise, training_commands
from resnet_keras.distribution.processes import Command, run_workers
from resnet_keras.errors import WorkersError
from resnet_keras.training import runs

ENDS = "pass"
SLEEPS = "import time; ready(); time.sleep(300)"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPS
CHILD = "[sys.executable, '-c', 'import time; time.sleep(300)']"
LEAVES = f"import subprocess, sys; subprocess.Popen({CHILD})\n"
PARENT = LEAVES + SLEEPS


# What each program may call: when it can be ended, and until others can be.
PREFIX = """
import os, pathlib, time
folder = pathlib.Path({folder!r})
def ready(): (folder / str(os.getpid())).touch()
def wait_for(count):
    while len(list(folder.iterdir())) < count: time.sleep(0.05)
"""


@pytest.fixture
def started(tmp_path):
    """Returns a function from programs to commands.

    It knows how many of them have called `ready()`, and which processes are `left()`.
    """
    folder = tmp_path / "pids"
    folder.mkdir()
    prefix = PREFIX.format(folder=str(folder))

    def commands(*programs):
        # Children inherit the variable, which tells them from other processes of the machine.
        environment = os.environ | {"LAUNCHED_BY": str(folder)}
        return [Command([sys.executable, "-c", prefix + text], environment) for text in programs]

    def left():
        mark = f"LAUNCHED_BY={folder}".encode()
        found = set()
        for entry in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.add(int(entry))
        return found

    commands.left = left
    commands.ready = lambda: len(list(folder.iterdir()))
    yield commands
    for process in left():
        os.kill(process, signal.SIGKILL)


def wait_until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_all_run_to_their_end(started, tmp_path):
    slow = "import time; time.sleep(0.5); print('late')"
    ending = run_workers(started(ENDS, slow, ENDS), log_dir=tmp_path / "new" / "logs")
    assert (ending.code, ending.worker) == (0, None)
    assert (tmp_path / "new" / "logs" / "worker-1.log").read_text() == "late\n"


@pytest.mark.parametrize(("program", "code"), [("exit(3)", 3), (DIES, 137)])
def test_the_first_failure_ends_the_rest(started, tmp_path, program, code):
    start = time.monotonic()
    ending = run_workers(started(SLEEPS, PARENT, "wait_for(2)\n" + program), log_dir=tmp_path)
    assert (ending.code, ending.worker) == (code, 2)
    assert ending.log == tmp_path / "worker-2.log"
    wait_until(lambda: not started.left())  # a moment, for what the worker had started
    assert time.monotonic() - start < 30


def test_what_ignores_a_request_to_end_is_killed(started, tmp_path):
    start = time.monotonic()
    ending = run_workers(started(STUBBORN, "wait_for(1); exit(1)"), log_dir=tmp_path)
    assert (ending.code, ending.worker) == (1, 1)
    assert started.left() == set()
    assert 10 < time.monotonic() - start < 30


def test_processes_that_a_worker_has_left_end_with_it(started, tmp_path):
    assert run_workers(started(LEAVES, LEAVES), log_dir=tmp_path).code == 0
    wait_until(lambda: not started.left())


def test_the_first_worker_is_seen_and_all_are_logged(started, tmp_path, capfd):
    speaks = "import sys; print('to out'); print('to err', file=sys.stderr); sys.stdout.write('ä')"
    run_workers(started(speaks, speaks), log_dir=tmp_path)
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("to out\nä", "to err\n")
    for index in (0, 1):
        lines = (tmp_path / f"worker-{index}.log").read_text()
        assert sorted(lines.replace("ä", "ä\n").split()) == ["err", "out", "to", "to", "ä"]


def test_lines_of_the_first_worker_are_whole_in_its_log(started, tmp_path, capfd):
    speaks = "import os; from time import sleep; "
    speaks += "os.write(1, b'one '); sleep(0.3); os.write(2, b'two\\n'); sleep(0.3); "
    speaks += "os.write(1, b'three\\nfour')"
    run_workers(started(speaks), log_dir=tmp_path)
    assert capfd.readouterr().out == "one three\nfour"
    lines = (tmp_path / "worker-0.log").read_text().splitlines()
    assert sorted(lines) == ["four", "one three", "two"]


def test_a_program_that_is_missing_ends_those_that_began(started, tmp_path):
    commands = [*started(SLEEPS), Command(["/no/such/program"], {})]
    with pytest.raises(WorkersError, match=r"^Worker 1 cannot be started .*/no/such/program"):
        run_workers(commands, log_dir=tmp_path)
    assert started.left() == set()


def test_logs_need_a_folder(started, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkersError, match=r"^Worker 0 cannot be started with its log in "):
        run_workers(started(ENDS), log_dir=tmp_path / "file")


def test_the_handlers_of_signals_are_put_back(started, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run_workers(started(ENDS), log_dir=tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


LAUNCHER = """
import json, os, sys
from pathlib import Path
from resnet_keras.distribution.processes import Command, run_workers

programs, folder = json.loads(sys.argv[1])
commands = [Command([sys.executable, "-c", text], dict(os.environ)) for text in programs]
sys.exit(run_workers(commands, log_dir=Path(folder)).code)
"""


@pytest.fixture
def launcher(started, tmp_path):
    """Returns a function that runs programs in a launcher, a process of its own."""

    def begin(*programs, **more):
        commands = started(*programs)
        texts = [command.arguments[-1] for command in commands]
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, json.dumps([texts, str(tmp_path)])],
            env=commands[0].environment,
            **more,
        )
        waiting = sum("ready()" in text for text in programs)
        wait_until(lambda: started.ready() == waiting)
        return process

    return begin


SAVES = """
import signal, sys, time
def save(number, frame):
    time.sleep(0.5)
    print("saved", flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
ready()
time.sleep(300)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_goes_on_to_all_who_end_in_their_own_time(
    launcher, started, tmp_path, number, code
):
    process = launcher(SAVES, SAVES, stdout=subprocess.DEVNULL)
    process.send_signal(number)
    assert process.wait(30) == code
    for index in (0, 1):
        assert (tmp_path / f"worker-{index}.log").read_text() == "saved\n"
    assert started.left() == set()


def test_a_second_signal_kills(launcher, started):
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + STUBBORN
    process = launcher(deaf, deaf)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert started.left() == set()


@pytest.mark.parametrize(
    "program", [SLEEPS, PARENT, pytest.param(STUBBORN, marks=pytest.mark.slow)]
)
def test_workers_do_not_outlive_a_launcher_that_is_killed(launcher, started, program):
    process = launcher(program, program)
    process.kill()
    process.wait()
    wait_until(lambda: not started.left())


def test_the_first_worker_has_a_terminal_where_the_launcher_has_one(launcher, tmp_path):
    asks = "import os, sys; print(*map(os.isatty, range(3))); sys.stderr.write('\\rbar')\n"
    size = "print(os.get_terminal_size().columns)"
    shown, inside = pty.openpty()
    termios.tcsetwinsize(inside, (40, 77))
    process = launcher(asks + size, asks, stdout=inside, stderr=inside)
    os.close(inside)
    assert process.wait(30) == 0
    seen = b""
    with contextlib.suppress(OSError):
        while data := os.read(shown, 1000):
            seen += data
    os.close(shown)
    assert seen == b"False True True\r\n\rbar77\r\n"
    assert (tmp_path / "worker-0.log").read_bytes() == b"False True True\n\rbar77\n"
    assert b"False False False\n" in (tmp_path / "worker-1.log").read_bytes()


def test_a_screen_that_is_closed_stops_nobody(launcher, tmp_path):
    writes = "import time\nfor _ in range(50): print('x' * 10000); time.sleep(0.01)"
    read, write = os.pipe()
    process = launcher(writes, ENDS, stdout=write)
    os.close(write)
    os.close(read)
    assert process.wait(30) == 0
    assert (tmp_path / "worker-0.log").stat().st_size == 50 * 10001


@pytest.fixture
def led(started, tmp_path):
    """Returns a function that runs programs of which the first leads."""

    def run(*programs, restarts=0):
        failures = []

        def again(ending):
            failures.append((ending.worker, ending.code))
            return len(failures) <= restarts

        ending = run_workers(started(*programs), log_dir=tmp_path, again=again)
        return ending.code, ending.worker, failures

    return run


def test_the_end_of_the_leader_is_the_end_of_all(led, started):
    late = "import time; time.sleep(0.5)"
    assert led("wait_for(1)", "ready(); " + late) == (0, None, [])
    assert led("wait_for(3); exit(6)", SLEEPS, SLEEPS) == (6, 0, [])
    assert started.left() == set()


def test_one_that_is_led_starts_again_alone(led, tmp_path):
    again = "import sys\nif started > 2: sys.exit(0)\n"
    counts = "started = len(list(folder.iterdir()))\nready()\n"
    dies = "print('began', flush=True)\n" + DIES
    assert led("wait_for(3)", counts + again + dies, restarts=5) == (
        0, None, [(1, 137)] * 3,
    )  # fmt: skip
    assert (tmp_path / "worker-1.log").read_text() == "began\n" * 3


def test_others_go_on_without_one_that_is_led_but_not_without_all(led, started):
    assert led("wait_for(1)", DIES, "import time; time.sleep(1); ready()") == (0, None, [(1, 137)])
    assert led(SLEEPS, "exit(5)", "import time; time.sleep(1); exit(4)") == (
        4, 2, [(1, 5), (2, 4)],
    )  # fmt: skip
    assert started.left() == set()


class Said(list):
    """What a supervisor tells the user."""

    def __call__(self, sentence):
        self.append(sentence)


def test_lost_workers_start_again_with_new_commands(started, tmp_path):
    said = Said()
    tries = [(SLEEPS, DIES), ("exit(1)", SLEEPS), (ENDS, "print('done')")]
    code = supervise(
        lambda restart: started(*tries[restart]), log_dir=tmp_path, max_restarts=3, say=said
    )
    assert code == 0
    assert said == [
        "worker 1 was killed by signal 9 (Killed); restart 1 of 3",
        "worker 0 ended with exit code 1; restart 2 of 3",
    ]
    assert (tmp_path / "restart-2" / "worker-1.log").read_text() == "done\n"
    assert (tmp_path / "worker-1.log").exists()


def test_the_last_failure_gives_sentence_and_code(started, tmp_path):
    said = Said()
    code = supervise(lambda _: started(SLEEPS, DIES), log_dir=tmp_path, max_restarts=2, say=said)
    assert code == 137
    log = tmp_path / "restart-2" / "worker-1.log"
    assert said[2:] == [
        f"error: worker 1 was killed by signal 9 (Killed) after 2 restarts; its log is {log}"
    ]
    assert started.left() == set()


def fails(code, *lines):
    return f"import sys; sys.stderr.write({''.join(lines)!r}); sys.exit({code})"


@pytest.mark.parametrize("code", [2, 3, 4, 5, 7])
def test_what_would_fail_again_ends_at_once_with_its_own_sentence(started, tmp_path, code):
    said = Said()
    program = fails(code, "error: of before\n", "error: No picture.\n", "more\n")
    ended = supervise(
        lambda restart: started(SLEEPS, program), log_dir=tmp_path, max_restarts=5, say=said
    )
    assert (ended, said) == (code, ["error: No picture."])


def test_an_error_is_said_once_whoever_has_it(started, tmp_path, capfd):
    program = fails(3, "Reading.\n", "error: No picture.\n", "More.\n")
    for programs in ((program, SLEEPS), (program, "import time; time.sleep(1)\n" + program)):
        said = Said()
        assert supervise(
            lambda _, programs=programs: started(*programs), log_dir=tmp_path, max_restarts=5,
            say=said,
        ) == 3  # fmt: skip
        assert capfd.readouterr().err == "Reading.\nMore.\n"
        assert said == ["error: No picture."]
        assert "error: No picture.\n" in (tmp_path / "worker-0.log").read_text()


def test_an_error_that_comes_in_pieces_is_none_the_less_one(started, tmp_path, capfd):
    write = "sys.stderr.write({!r}); sys.stderr.flush(); time.sleep(0.2)"
    pieces = ("seen\nerror: No pic", "ture", ".\nerror? no\n")
    program = "; ".join(["import sys, time", *map(write.format, pieces), "sys.exit(3)"])
    said = Said()
    supervise(lambda _: started(program, SLEEPS), log_dir=tmp_path, max_restarts=0, say=said)
    assert capfd.readouterr().err == "seen\nerror? no\n"
    assert said == ["error: No picture."]


def test_the_error_that_follows_from_the_loss_of_another_stays_in_the_log(started, tmp_path, capfd):
    log = tmp_path / "worker-0.log"
    follows = f"import sys; sys.stderr.write('error: Lost.\\n'); sys.stderr.flush()\n{SLEEPS}"
    killed = (
        "import os, pathlib, signal, time\n"
        f"while 'Lost' not in pathlib.Path({str(log)!r}).read_text(): time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    said = Said()
    supervise(lambda _: started(follows, killed), log_dir=tmp_path, max_restarts=0, say=said)
    of_one = tmp_path / "worker-1.log"
    assert said == [f"error: worker 1 was killed by signal 9 (Killed); its log is {of_one}"]
    assert capfd.readouterr().err == ""


def test_a_final_code_without_a_sentence_gets_one(started, tmp_path):
    said = Said()
    assert supervise(lambda _: started("exit(2)"), log_dir=tmp_path, max_restarts=5, say=said) == 2
    log = tmp_path / "worker-0.log"
    assert said == [f"error: worker 0 ended with exit code 2; its log is {log}"]


def test_the_sentence_of_a_worker_that_is_given_up_is_quoted(started, tmp_path):
    said = Said()
    program = fails(8, "error: The chief is gone.\n")
    supervise(lambda _: started(SLEEPS, program), log_dir=tmp_path, max_restarts=0, say=said)
    log = tmp_path / "worker-1.log"
    sentence = f"error: worker 1 ended with exit code 8 (The chief is gone); its log is {log}"
    assert said == [sentence]


def test_each_worker_gets_its_place_and_its_share_of_the_cores(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    commands = training_commands(["finetune", "photos"], workers=3)
    clusters = []
    for command in commands:
        monkeypatch.setenv("TF_CONFIG", command.environment["TF_CONFIG"])
        clusters.append(Cluster.from_environment())
    assert [cluster.index for cluster in clusters] == [0, 1, 2]
    assert len({cluster.addresses for cluster in clusters}) == 1
    assert len(set(clusters[0].addresses)) == 3
    cores = len(os.sched_getaffinity(0))
    share = str(max(1, cores // 3))
    assert [commands[2].environment[name] for name in THREADS] == ["7", share, share]


def test_every_start_has_ports_of_its_own():
    def ports(workers):
        return training_commands(["finetune"], workers=workers)[0].environment["TF_CONFIG"]

    assert ports(2) != ports(2)


def resnet_keras(*arguments, cwd, **variables):
    return subprocess.run(
        [sys.executable, "-m", "resnet_keras", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env=os.environ | variables,
    )


CLUSTER = Cluster(("10.0.0.1:2222", "10.0.0.2:2222"), 1).to_tf_config()


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "words"),
    [
        (["--workers", "0", "--", "finetune", "x"], {}, 2, "should be greater than or equal to 1"),
        (["--", "finetune", "x"], {}, 2, "Missing option '--workers'"),
        (["--workers", "2"], {}, 2, "Missing argument 'COMMAND'"),
        (["--workers", "2", "--", "launch", "--workers", "2"], {}, 2, "only finetune can"),
        (["--workers", "2", "--", "tune", "x"], {}, 2, "only finetune can; use --tuner for it"),
        (["--tuner", "--workers", "2", "--", "finetune", "x"], {}, 2, "with --tuner; only tune"),
        (["--workers", "2", "--", "predict", "x", "y"], {}, 2, "'predict' cannot train in several"),
        (["--workers", "2", "--", "finetune", "x", "--epohcs", "3"], {}, 2, "--epochs"),
        (["--workers", "2", "--", "finetune"], {}, 2, "Usage: resnet-keras finetune"),
        (["--workers", "2", "--max-restarts", "-1", "--", "finetune", "x"], {}, 2, "or equal to 0"),
        (["--workers", "2", "finetune", "x"], {"TF_CONFIG": CLUSTER}, 8, "already worker 1 at"),
        (["--workers", "2", "finetune", "x"], {"TF_CONFIG": "?"}, 8, "error: TF_CONFIG must be"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_anything_starts(tmp_path, arguments, variables, code, words):
    done = resnet_keras("launch", *arguments, cwd=tmp_path, **variables)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_a_worker_is_the_error_of_the_launch(tmp_path):
    done = resnet_keras(
        "launch", "--workers", "2", "--max-restarts", "2", "--log-dir", "logs",
        "finetune", "missing", "--weights", "open_nsfv",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 4
    first, *rest = done.stderr.splitlines()
    assert first == "2 workers; what each prints is in logs"
    (error,) = (line for line in rest if line.startswith("error: "))
    assert "open_nsfv" in error


# Stands in for Python: the chief writes its arguments down, fails, and is killed the second time.
PYTHON = """#!/bin/sh
case "$1" in -I) exec {python} "$@";; esac
case "$TF_CONFIG" in *'"index": 0'*) ;; *) exec sleep 300;; esac
echo "$@" >> {folder}/calls
[ $(wc -l < {folder}/calls) -gt 1 ] && kill -9 $$
{begins}
exit 1
"""
# What finetune does first: the chief begins the run.
BEGINS = "mkdir -p {run}; rm -f {run}/config.yaml; sleep 0.05; touch {run}/config.yaml"


@pytest.mark.parametrize(
    ("options", "older", "begins", "again"),
    [
        ([], False, True, "--resume photos"),
        ([], False, False, "--resume photos"),
        (["--resume"], True, False, "photos --resume"),
        (["--force"], False, True, "--resume photos"),
        (["--force"], True, True, "--resume photos"),
        (["--force"], True, False, "photos --force"),
        ([], True, False, "photos"),
    ],
    ids=["new", "not begun", "resumed", "forced", "replaced", "not replaced", "refused"],
)
def test_a_restart_resumes_its_own_run_and_no_other(tmp_path, options, older, begins, again):
    run = tmp_path / "runs" / "photos"
    if older:
        run.mkdir(parents=True)
        (run / CONFIG).touch()
    fake = tmp_path / "python"
    begin = BEGINS.format(run=run) if begins else ""
    fake.write_text(PYTHON.format(python=sys.executable, folder=tmp_path, begins=begin))
    fake.chmod(0o755)
    program = (
        f"import sys; sys.executable = {str(fake)!r}\nfrom resnet_keras.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "launch", "--workers", "2", "--max-restarts", "1",
         "--", "finetune", "photos", *options],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 137, done.stderr
    assert "worker 0 ended with exit code 1; restart 1 of 1\n" in done.stderr
    assert "error: worker 0 was killed by signal 9 (Killed) after 1 restart; " in done.stderr
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first == " ".join(["-P -m resnet_keras finetune photos", *options])
    assert second == f"-P -m resnet_keras finetune {again}"


def test_the_file_that_tells_a_run_is_that_of_the_run_folder():
    assert CONFIG == runs.CONFIG
