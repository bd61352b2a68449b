"""What ends a wait, in which order, and which reason counts."""

import threading
import time

import pytest

from guestforge.vmm.console import Console
from guestforge.vmm.errors import MachineError
from guestforge.vmm.state import Ended, State
from tests.unit.taken import heeds_what_another_takes

LIMIT = 10.0


@pytest.fixture
def lines():
    return []


@pytest.fixture
def state(lines):
    return State(Console(None), "Linux version", lines.append)


def later(function, *args, after=0.05):
    threading.Timer(after, function, args).start()
    return time.monotonic() + after


def kind_of(state, ready=lambda: None, limit=LIMIT):
    with pytest.raises(MachineError) as caught:
        state.wait(ready, limit, "nothing")
    return caught.value.kind


def test_wait_ends_with_what_was_waited_for(state):
    later(state.feed, b"hello\n")
    assert state.wait(lambda: state.find("hello"), LIMIT, "hello") == "hello"


def test_fault_on_the_console_wakes_at_once(state):
    due = later(state.feed, b"[ 1.0] Kernel panic - not syncing: x\n")
    woken = []
    state.on_end(lambda: woken.append(time.monotonic()))
    assert kind_of(state) == "panic"
    assert woken[0] - due < LIMIT / 4
    assert time.monotonic() - due < LIMIT / 2


def test_trace_that_follows_is_in_the_excerpt(state, monkeypatch):
    # so long that a slow machine keeps to it
    monkeypatch.setattr("guestforge.vmm.state.TRACE_QUIET", 0.8)
    monkeypatch.setattr("guestforge.vmm.state.TRACE_LIMIT", LIMIT)
    state.feed(b"[ 1.0] BUG: unable to handle page fault\n")
    for number in (1, 2, 3):  # each within the quiet time after the one before, all of them not
        later(state.feed, b"trace %d\n" % number, after=0.3 * number)
    with pytest.raises(MachineError) as caught:
        state.verify()
    assert caught.value.excerpt.splitlines() == [
        "[ 1.0] BUG: unable to handle page fault",
        "trace 1",
        "trace 2",
        "trace 3",
    ]


def test_endless_trace_does_not_hold_the_wait_up(state):
    stop = threading.Event()

    def print_on():
        while not stop.wait(0.01):
            state.feed(b"more\n")

    state.feed(b"WARNING: CPU: 0 PID: 1\n")
    thread = threading.Thread(target=print_on)
    thread.start()
    start = time.monotonic()
    assert kind_of(state) == "warning"
    assert time.monotonic() - start < LIMIT / 2
    stop.set()
    thread.join()


def test_first_reason_counts(state):
    state.fail("virtiofs-died", "it died", lambda: "its words")
    state.fail("vsock-died", "that too", str)
    state.feed(b"WARNING: CPU: 0 PID: 1\n")
    state.has_ended(1)
    with pytest.raises(MachineError, match="it died") as caught:
        state.verify()
    assert caught.value.excerpt == "its words"
    assert state.why() == "it died"


def test_fault_counts_before_what_was_waited_for_and_that_before_qemus_end(state):
    state.feed(b"agent ready\n")
    state.has_ended(0)
    assert state.wait(lambda: state.find("agent ready"), LIMIT, "agent") == "agent ready"
    assert kind_of(state) == "qemu-exited"
    other = State(Console(None), "Linux version", None)
    other.feed(b"agent ready\nWARNING: CPU: 0 PID: 1\n")
    assert kind_of(other, lambda: other.find("agent ready")) == "warning"


def test_end_can_be_waited_for_but_not_with_a_fault_on_the_console(state):
    state.shutdown_reason = "guest-shutdown"
    later(state.has_ended, 0)
    assert state.wait(lambda: state.ended, LIMIT, "end", needs_qemu=False) == Ended("guest-shutdown", 0)
    other = State(Console(None), "Linux version", None)
    other.feed(b"[ 1.0] Kernel panic - not syncing: x")  # its line break never came
    later(other.has_ended, 0)
    with pytest.raises(MachineError, match="panicked"):
        other.wait(lambda: other.ended, LIMIT, "end", needs_qemu=False)


def test_limit_names_what_did_not_come(state):
    state.feed(b"last words\n")
    with pytest.raises(MachineError, match=r"no agent within 0\.1 s") as caught:
        state.wait(lambda: None, 0.1, "agent")
    assert caught.value.kind == "timeout"
    assert caught.value.excerpt == "last words"


def test_a_signal_that_another_thread_takes_is_heeded_while_a_machine_is_waited_for(state):
    with heeds_what_another_takes():
        state.wait(lambda: None, LIMIT, "nothing")


def test_grace_lets_the_reason_arrive(state):
    state.verify(0.01)
    later(state.fail, "vsock-died", "gone", str)
    with pytest.raises(MachineError, match="gone"):
        state.verify(LIMIT)


def test_callback_is_called_once_and_at_once_when_it_is_late(state):
    called = []
    state.on_end(lambda: called.append("early"))
    state.feed(b"harmless\n")
    assert called == []
    state.fail("vsock-died", "gone", str)
    state.has_ended(0)
    state.on_end(lambda: called.append("late"))
    assert called == ["early", "late"]


def test_what_happens_while_we_end_it_is_no_trouble(state):
    state.stopping = True
    state.fail("virtiofs-died", "it died", str)
    assert state.why() is None


def test_kernel_is_up_with_its_first_line(state, lines):
    state.feed(b"SeaBIOS\n")
    assert "kernel_up" not in state.phases
    state.feed(b"[    0.0] Linux ver")
    state.feed(b"sion 6.12\n\x1b[31mred\n")
    assert "kernel_up" in state.phases
    assert lines == ["SeaBIOS", "[    0.0] Linux version 6.12", "red"]


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended("guest-reset", 0), "QEMU ended with exit code 0 after guest-reset"),
        (Ended("unknown", -9), "QEMU ended with SIGKILL"),
    ],
)
def test_end_in_words(ended, words):
    assert str(ended) == words


def test_a_fault_that_a_person_looks_at_ends_nothing():
    state = State(Console(None), "Linux version", None, faults_count=False)
    state.feed(b"BUG: printed by whoever is at the keyboard\n")
    state.verify()
    assert [fault.kind for fault in state.faults()] == ["oops"]
