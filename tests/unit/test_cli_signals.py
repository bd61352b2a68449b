"""Signals that end a task: the first counts, those that follow while it ends are no news."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from guestforge.cli import job as cli
from guestforge.core import signals
from tests.unit.taken import LIMIT, heeds_what_another_takes

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def interrupt():
    return signals._Interrupted()


def test_first_signal_ends_the_task(interrupt):
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGTERM, None)


def test_second_signal_does_not_break_off_the_end(interrupt):
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)
    interrupt(signal.SIGINT, None)
    interrupt(signal.SIGTERM, None)


def test_end_that_takes_too_long_can_be_interrupted(interrupt, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + signals.PATIENCE + 1)
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)


def test_a_signal_that_another_thread_takes_is_heeded_while_the_main_one_waits():
    with heeds_what_another_takes():
        signals.awaited(threading.Event().wait, LIMIT)


@pytest.mark.parametrize("seconds", [0, 2.5 * signals.NAP, None])
def test_a_wait_has_all_of_its_seconds_and_no_more(seconds):
    asked = []

    def wait(some):
        asked.append(some)
        time.sleep(some)
        return seconds is None and len(asked) > 3

    begun = time.monotonic()
    found = signals.awaited(wait, seconds)
    assert found == (seconds is None)
    assert max(asked) <= signals.NAP
    assert seconds is None or seconds <= time.monotonic() - begun < seconds + 1


SLEEPER = """
import sys, time
from guestforge.cli.job import _guarded
def body():
    print("at work", flush=True)
    sys.stdin.readline()
    return 7
sys.exit(_guarded(body))
"""
ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def started():
    processes = []

    def start(ignored):
        def ignore():
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)

        process = subprocess.Popen(
            [sys.executable, "-c", SLEEPER], cwd=REPOSITORY, preexec_fn=ignore,  # noqa: PLW1509 - no threads yet
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout.readline() == "at work\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,), (signal.SIGINT,)], ids=["shell", "nohup", "background"])
def test_a_signal_ends_a_task_unless_it_was_started_without(started, number, ignored):
    process = started(ignored)
    process.send_signal(number)
    if number not in ignored:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == cli.INTERRUPTED
        assert "interrupted" in errors
    else:
        _, errors = process.communicate("go on\n", timeout=30)
        assert (process.returncode, errors) == (7, "")


def test_tests_that_are_started_in_the_background_can_be_interrupted(tmp_path):
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests/conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(
        "import signal, subprocess, sys\n"
        "def test_it():\n"
        "    code = 'import signal; print([n for n in (1, 2, 15) if signal.getsignal(n) is signal.SIG_IGN])'\n"
        "    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout\n"
        "    assert said == '[]\\n'\n"
    )
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path]

    def ignore():
        for number in ALL:
            signal.signal(number, signal.SIG_IGN)

    done = subprocess.run(argv, cwd=tmp_path, preexec_fn=ignore, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


HOOKS = {
    "at a fork": """
os.register_at_fork(after_in_parent=come)
def provoke():
    subprocess.run(["true"], preexec_fn=lambda: None)
""",
    "in a finalizer": """
class Thing:
    def __del__(self):
        come()
def provoke():
    Thing()
""",
}
DROPPED = """
import os, signal, subprocess, sys, time
from guestforge.cli.job import _guarded
def come():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)  # it is raised here
HOOK
def body():
    provoke()
    time.sleep(20)
    print("not interrupted")
sys.exit(_guarded(body))
"""


@pytest.mark.parametrize("hook", HOOKS)
def test_interruption_that_python_drops_comes_again(hook):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", DROPPED.replace("HOOK", HOOKS[hook])], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("interrupted; ")
    assert time.monotonic() - start < 10


def test_what_is_held_waits_and_nothing_stays_held(monkeypatch):
    """Not even where the signal came while the hold began."""
    change, done = signal.pthread_sigmask, []

    def late(how, mask):
        before = change(how, mask)
        if mask == signals.ENDING:
            done.append("begun")
            raise KeyboardInterrupt
        return before

    with pytest.raises(KeyboardInterrupt), signals.held():
        signal.raise_signal(signal.SIGINT)
        done.append("worked")
    assert done == ["worked"]
    monkeypatch.setattr(signal, "pthread_sigmask", late)
    with pytest.raises(KeyboardInterrupt), signals.held():
        done.append("worked")
    monkeypatch.undo()
    assert done == ["worked", "begun"]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(signals.ENDING)


UNREAD = """
import sys, threading, time
from guestforge.cli.job import _read, _shown
from guestforge.core.events import Said, send
def body():
    WORK
    print("the end", file=sys.stderr)
with _shown({"json": True}):
    sys.exit(_read(body))
"""
WRITERS = {
    "an event": "for _ in range(100_000): send(Said('x' * 50))",
    "an event of another thread": """
    writer = threading.Thread(target=lambda: [send(Said('x' * 50)) for _ in range(100_000)])
    writer.start()
    try:
        time.sleep(20)
    finally:
        writer.join()""",
    "a line": "for _ in range(100_000): print('x' * 50)",
    "what Python writes at its end": "print('x', flush=True); sys.stdin.readline(); print('y')",
}


@pytest.mark.parametrize("work", WRITERS)
def test_a_task_that_nobody_reads_any_more_ends_without_a_word(work):
    argv = [sys.executable, "-c", UNREAD.replace("WORK", WRITERS[work])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(argv, cwd=REPOSITORY, env=environment, text=True, **pipes) as process:
        assert process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read()
    assert process.returncode == cli.UNREAD
    assert errors == ("the end\n" if "its end" in work else "")


def test_a_broken_pipe_of_our_own_is_a_fault_to_be_seen():
    argv = [sys.executable, "-c", UNREAD.replace("WORK", "raise BrokenPipeError(32, 'a program is gone')")]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "a program is gone" in done.stderr
