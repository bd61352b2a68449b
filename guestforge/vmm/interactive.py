"""A guest for a person: its console on the terminal, and a debug shell over vsock."""

import shlex
import sys
import threading
from dataclasses import replace
from typing import Final

from guestforge.progress import say
from guestforge.vmm.machine import REPOSITORY, Machine
from guestforge.vmm.plan import MachinePlan
from guestforge.vmm.state import Ended
from guestforge.vmm.virtiofs import VirtioFsServer

SHELL_PORT: Final = 1026  # where runtimes expect an agent's debug console
SHELL_ARGS: Final = ("agent.debug_console", f"agent.debug_console_vport={SHELL_PORT}")


def interactive_plan(plan: MachinePlan) -> MachinePlan:
    """Return the plan of the same machine with its console on the terminal and the agent's debug shell on."""
    return replace(plan, console="terminal", kernel_args=(*plan.kernel_args, *SHELL_ARGS))


def run_interactive(plan: MachinePlan, *, virtiofs: VirtioFsServer | None = None) -> Ended:
    """Run a machine on the terminal until it ends, or the user leaves it with Ctrl-A X.

    Raises what Machine raises; the terminal is then as it was before.
    """
    with Machine(interactive_plan(plan), virtiofs=virtiofs) as machine:
        say("Ctrl-A X leaves the guest, Ctrl-A C changes between its console and QEMU's monitor\r")
        if command := shell_command(machine):
            say(f"a shell in it, from another terminal: {shlex.join(command)}\r")
        return machine.wait_end(threading.TIMEOUT_MAX)


def shell_command(machine: Machine) -> list[str] | None:
    """Return the command that opens a shell in the guest; None where the machine has no vsock device."""
    vsock = machine.plan.vsock
    if vsock is None:
        return None
    place = str(vsock.cid) if vsock.kind == "kernel" else str(machine.sockets.vsock)
    # from wherever the user is: the checkout is in no Python's path, and with -P the user's directory isn't either
    return ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-P", "-m", "guestforge.vmm.shell", place]
