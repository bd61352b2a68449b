"""What a watcher makes of QEMU's events; the rest of it is tested with real machines."""

import asyncio

import pytest
from qemu.qmp import QMPError

from guestforge.core.run import spawn
from guestforge.vmm.console import Console
from guestforge.vmm.errors import MachineError
from guestforge.vmm.pipes import console_pipes
from guestforge.vmm.state import State
from guestforge.vmm.watcher import KEPT_LINES, KEPT_OUTPUT, Watched, Watcher, _Output


@pytest.fixture
def state():
    return State(Console(None), "Linux version", None)


@pytest.fixture
def watcher(state, tmp_path):
    with spawn(["sleep", "60"]) as process, console_pipes(tmp_path / "console") as pipes:
        yield Watcher(
            state, Watched("qemu", "qemu-exited", "QEMU", process, bytearray(b"KVM internal error")), (), None, pipes
        )


def stop(watcher, answer):
    async def execute(command):
        assert command == "query-status"
        if isinstance(answer, Exception):
            raise answer
        return {"status": answer}

    watcher._qmp.execute = execute
    asyncio.run(watcher._stopped())


def kind_of(state):
    with pytest.raises(MachineError) as caught:
        state.verify()
    return caught.value.kind


@pytest.mark.parametrize("status", ["internal-error", "io-error", "guest-panicked", "watchdog"])
def test_guest_that_qemu_has_stopped_is_beyond_use(state, watcher, status):
    stop(watcher, status)
    assert kind_of(state) == "qemu-stopped"
    assert status in state.why()
    with pytest.raises(MachineError) as caught:
        state.verify()
    assert caught.value.excerpt == "KVM internal error"


@pytest.mark.parametrize("status", ["running", "paused", "shutdown", QMPError("gone"), TimeoutError()])
def test_guest_that_goes_on_or_ends_is_none(state, watcher, status):
    stop(watcher, status)
    state.verify()


def test_guest_that_says_that_it_panicked_is_beyond_use(state, watcher):
    state.feed(b"last words\n")
    watcher._event("GUEST_PANICKED", {"action": "poweroff"})
    assert kind_of(state) == "panic"


def test_reason_of_a_shutdown_is_kept_and_other_events_are_nothing(state, watcher):
    watcher._event("RTC_CHANGE", {})
    watcher._event("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
    state.has_ended(0)
    assert state.ended.reason == "guest-shutdown"


def test_output_is_bounded_and_cleaned(watcher):
    kept = watcher._qemu.output
    output = _Output(kept, None)
    for _ in range(100):
        output.data_received(b"x" * 1000 + b"\n\x1b[31mred\n")
    assert len(kept) == KEPT_OUTPUT
    lines = watcher._qemu.last_words().splitlines()
    assert lines[-1] == "red"
    assert len(lines) <= KEPT_LINES
