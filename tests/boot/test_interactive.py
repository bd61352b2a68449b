"""A machine on a terminal: a real one, of a pseudo-terminal."""

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(60)]
REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from pathlib import Path
from guestforge.arch import ARCHES
from guestforge.vmm.interactive import run_interactive
from guestforge.vmm.plan import MachinePlan, Vsock
plan = MachinePlan(ARCHES["x86_64"], "tcg", None, Path(sys.argv[1]), vsock=Vsock("builtin"), extra=tuple(sys.argv[2:]))
print("ended:", run_interactive(plan))
"""


class Terminal:
    """A program on a terminal, and what it showed."""

    def __init__(self, *argv):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(REPOSITORY)
            os.execv(argv[0], argv)
        self.shown = ""
        self.settings = termios.tcgetattr(self.master)

    def wait(self, text, limit=20.0):
        deadline = time.monotonic() + limit
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.shown!r}"
            if select.select([self.master], [], [], left)[0]:
                self.shown += os.read(self.master, 4096).decode("utf-8", "replace")

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def terminal(tmp_path):
    started = []

    def start(*extra):
        started.append(Terminal(sys.executable, "-c", PROGRAM, str(tmp_path / "log"), *extra))
        return started[-1]

    yield start
    for one in started:
        os.close(one.master)


def test_user_reaches_the_monitor_and_leaves_with_ctrl_a_x(terminal, tmp_path):
    guest = terminal()
    guest.wait("guestforge.vmm.shell")
    guest.type("\x01c")
    guest.wait("(qemu)")
    guest.type("info status\r")
    guest.wait("VM status: running")
    assert not termios.tcgetattr(guest.master)[3] & termios.ECHO  # the guest's terminal echoes, not the host's
    guest.type("\x01x")
    guest.wait("ended: QEMU ended with exit code 0")
    assert termios.tcgetattr(guest.master) == guest.settings
    assert guest.end() == 0
    assert (tmp_path / "log").exists()


def test_keys_from_a_pipe_reach_the_guest_and_what_acts_on_a_terminal_does_not_leave_it(tmp_path):
    # the firmware's serial terminal begins with a reset
    started = [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), "-machine", "graphics=off"]
    with subprocess.Popen(started, cwd=REPOSITORY, stdin=-1, stdout=-1) as guest:
        shown = b""
        while b"SeaBIOS" not in shown:
            data = os.read(guest.stdout.fileno(), 4096)
            assert data, shown
            shown += data
        shown += guest.communicate(b"\x01cquit\r")[0]
    assert b"(qemu)" in shown
    assert b"ended: QEMU ended with exit code 0" in shown
    assert b"\x1bc" in (tmp_path / "log").read_bytes()
    assert b"\x1bc" not in shown


def test_terminal_is_as_before_when_qemu_does_not_start(terminal):
    guest = terminal("-device", "nonsense")
    guest.wait("QEMU did not start")
    guest.wait("\r\n", 1)
    assert guest.end() == 1  # python's, for an error that nobody caught
    assert termios.tcgetattr(guest.master) == guest.settings


def test_killed_qemu_gives_the_terminal_back(terminal):
    guest = terminal()
    guest.wait("guestforge.vmm.shell")
    guest.type("\x01c")
    guest.wait("(qemu)")
    children = Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()
    qemu = next(pid for pid in children if "qemu" in Path(f"/proc/{pid}/comm").read_text())
    os.kill(int(qemu), 9)
    guest.wait("ended: QEMU ended with SIGKILL")
    assert termios.tcgetattr(guest.master) == guest.settings
    assert guest.end() == 0


@pytest.mark.timeout(900)  # the first of the boot tests builds the kernel
def test_user_gets_a_shell_in_a_guest_that_was_built(tmp_path):
    invoke = Path(sys.executable).with_name("invoke")
    guest = Terminal(str(invoke), "run", "--arch", "x86_64", "--output", str(tmp_path))
    try:
        guest.wait("agent ready", 600)
        command = shlex.split(re.search(r"from another terminal: (.*?)\r", guest.shown)[1])
        shell = subprocess.run(command, input=b"echo in $((6*7)); exit\n", capture_output=True, timeout=30, cwd="/")
        assert b"in 42" in shell.stdout
        guest.type("\x01x")
        assert guest.end() == 0
    finally:
        os.close(guest.master)
    assert "Linux version" in (tmp_path / "x86_64" / "debug" / "run-console.log").read_text()
