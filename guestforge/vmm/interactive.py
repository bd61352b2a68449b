"""A guest for a person: its console on the terminal, and a debug shell over vsock.

The console passes through us, as in every machine: so its log is bounded, and the terminal gets what `escapes` lets
through. QEMU keeps its keys, Ctrl-A X and Ctrl-A C, which it finds in what we pass on.
"""

import contextlib
import os
import queue
import select
import shlex
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from guestforge.core.progress import say
from guestforge.project.layout import CHECKOUT
from guestforge.vmm import terminal
from guestforge.vmm.escapes import RESET, TerminalFilter
from guestforge.vmm.machine import Machine
from guestforge.vmm.plan import MachinePlan
from guestforge.vmm.state import Ended
from guestforge.vmm.virtiofs import VirtioFsServer

SHELL_PORT: Final = 1026  # where runtimes expect an agent's debug console
READ_SIZE: Final = 4096  # bytes of typed keys, or of what was pasted
STDOUT: Final = 1
# A terminal that does not keep up misses something; neither the log nor the machine waits for it.
MAX_WAITING: Final = 256  # pieces of the console, each up to 64 KiB
LAST_WORDS: Final = 1.0  # seconds that a terminal has at the end for what it has not shown yet
MISSED: Final = b"\r\n[guestforge: the terminal is too slow for the console; the log has the rest]\r\n"
SHELL_ARGS: Final = ("agent.debug_console", f"agent.debug_console_vport={SHELL_PORT}")


def interactive_plan(plan: MachinePlan) -> MachinePlan:
    """Return the plan of the same machine with its console on the terminal and the agent's debug shell on."""
    return replace(plan, console="terminal", kernel_args=(*plan.kernel_args, *SHELL_ARGS))


def run_interactive(plan: MachinePlan, *, virtiofs: VirtioFsServer | None = None) -> Ended:
    """Run a machine on the terminal until it ends, or the user leaves it with Ctrl-A X.

    Raises what Machine raises; the terminal is then as it was before.
    """
    with (
        _Screen() as screen,
        Machine(interactive_plan(plan), virtiofs=virtiofs, on_console=screen.show) as machine,
        terminal.raw(),
        _keys(machine),
    ):
        say("Ctrl-A X leaves the guest, Ctrl-A C changes between its console and QEMU's monitor\r")
        if command := shell_command(machine):
            say(f"a shell in it, from another terminal: {shlex.join(command)}\r")
        return machine.wait_end(threading.TIMEOUT_MAX)


class _Screen:
    """Shows a console on standard output, in a thread of its own: a terminal may stop for as long as it likes."""

    def __init__(self) -> None:
        self._filter = TerminalFilter()
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._missed = False
        self._thread = threading.Thread(target=self._write, name="guestforge-screen", daemon=True)

    def __enter__(self) -> "_Screen":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put(RESET if os.isatty(STDOUT) else b"", timeout=LAST_WORDS)
            self._waiting.put(None, timeout=LAST_WORDS)
            self._thread.join(LAST_WORDS)

    def show(self, data: bytes) -> None:
        """Show what the console printed; returns at once."""
        shown = self._filter.feed(data)
        try:
            self._waiting.put_nowait(MISSED + shown if self._missed else shown)
            self._missed = False
        except queue.Full:
            self._missed = True

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # nobody looks any more; the log goes on
            while (data := self._waiting.get()) is not None:
                while data:
                    data = data[os.write(STDOUT, data) :]


@contextlib.contextmanager
def _keys(machine: Machine) -> Iterator[None]:
    """Pass on what the user types while the block runs."""
    end, ended = os.pipe()

    def read() -> None:
        with contextlib.suppress(OSError):
            while end not in select.select([terminal.STDIN, end], [], [])[0]:
                if not (data := os.read(terminal.STDIN, READ_SIZE)):
                    return
                machine.type(data)

    thread = threading.Thread(target=read, name="guestforge-keys", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(ended)
        thread.join(LAST_WORDS)  # it may wait for a guest that takes no keys, and goes with the machine then
        if not thread.is_alive():
            os.close(end)


def shell_command(machine: Machine) -> list[str] | None:
    """Return the command that opens a shell in the guest; None where the machine has no vsock device."""
    vsock = machine.plan.vsock
    if vsock is None:
        return None
    place = str(vsock.cid) if vsock.kind == "kernel" else str(machine.sockets.vsock)
    # from wherever the user is: the checkout is in no Python's path, and with -P the user's directory isn't either
    return ["env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-P", "-m", "guestforge.vmm.shell", place]
