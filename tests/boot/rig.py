"""Real machines under check, in which a test breaks something at a known moment."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from guestforge.check import live
from guestforge.check.checks import CHECKS
from guestforge.check.report import Report, failed
from guestforge.check.run import check_artifact
from guestforge.core.errors import CheckError
from guestforge.core.runtime import HOST
from guestforge.project.options import CheckOptions

# The checks of containers take as long as all others; only who tries them has them run.
TABLE = tuple(check for check in CHECKS if check.name not in {"container", "isolation"})
REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 5.0  # seconds in which all that was ended has gone, on a loaded host


@dataclass(frozen=True)
class Scene:
    """Where a run may leave something behind: its directory for sockets, its one for temporary files, processes."""

    runtime: Path
    temporary: Path

    @property
    def environment(self):
        """What makes a program use them."""
        return {"XDG_RUNTIME_DIR": str(self.runtime), "TMPDIR": str(self.temporary), "GUESTFORGE_INSTALL": "never"}

    def processes(self):
        """The processes of this scene that are not ourselves: their command line or their environment names it."""
        return {pid: words for pid in _pids() if pid != os.getpid() and (words := self._belongs(pid))}

    def assert_clean(self):
        assert await_empty(self.left) == []

    def await_no_processes(self):
        assert await_empty(self.processes) == {}

    def wait_process(self, name):
        """Wait until a program runs."""
        deadline = time.monotonic() + 30
        while not any(name in command for command in self.processes().values()):
            assert time.monotonic() < deadline, f"no {name}"
            time.sleep(0.02)

    def left(self):
        """What is still there."""
        return [*self.processes().values(), *self.runtime.iterdir(), *self.temporary.iterdir()]

    def _belongs(self, pid):
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        mine = any(os.fsencode(path) in text for path in (self.runtime, self.temporary))
        return f"{pid}: {command}" if mine else None


def await_empty(look):
    """Return what `look` returns once that is empty, or patience ends."""
    deadline = time.monotonic() + PATIENCE
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _pids():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


@dataclass
class Event:
    """When it happened."""

    at: float | None = None

    def now(self):
        if self.at is None:
            self.at = time.monotonic()


@dataclass(frozen=True)
class Outcome:
    """What became of a check, and how many seconds after the event it had ended; None if there was none."""

    report: Report
    seconds: float | None
    out: Path

    @property
    def failures(self):
        return [result.name for result in self.report.checks if result.status == "fail"]

    @property
    def statuses(self):
        return {result.name: result.status for result in self.report.checks}

    @property
    def error(self):
        error = failed([self.report])
        assert isinstance(error, CheckError)
        return error


@dataclass
class Faults:
    """What goes wrong. Each function gets the running guest, or the machine that is to start."""

    before_start: Callable | None = None  # may return another machine in its place
    at_probe: tuple[str, Callable] | None = None  # at the first probe on a storage, by the name of its check
    limit: float = float("inf")  # seconds that it may take from then on
    at_wait: Callable | None = None  # when the first line of the console is waited for
    after_power_off: Callable | None = None
    line: str | None = None  # the event is this text on the console
    event: Event = field(default_factory=Event)


class Rig:
    """Runs checks of real guests, with faults."""

    def __init__(self, built, scene, booted, out, monkeypatch):
        self._built = built
        self._booted = booted
        self._out = out
        self._monkeypatch = monkeypatch
        self.scene = scene

    def check(
        self, arch="x86_64", artifact="initrd", *, accel="auto", timeout=None, virtio_fs_server="auto", faults=None,
        table=TABLE, **changes,
    ):  # fmt: skip
        """Check an artifact of an architecture's guest with some of its facts changed, by a table of checks."""
        faults = faults or Faults()
        self._monkeypatch.setattr("guestforge.check.run.CHECKS", table)
        guest = replace(self._built(arch), **changes)
        self._monkeypatch.setattr(live, "say", lambda text: _note(faults, text))
        # verbose: each line of the console is told as it comes
        options = CheckOptions(accel=accel, timeout=timeout, virtio_fs_server=virtio_fs_server, verbose=True)
        report = check_artifact(_starter(faults), guest, artifact, self._out, options, runtime=HOST)
        ended = time.monotonic()
        self._booted(report, "with a fault, on purpose")
        return Outcome(report, ended - faults.event.at if faults.event.at else None, self._out)


def _note(faults, text):
    if faults.line and faults.line in text:
        faults.event.now()


def _starter(faults):
    @contextlib.contextmanager
    def start(machine):
        machine = (faults.before_start and faults.before_start(machine)) or machine
        with live.start(machine) as guest:
            if faults.at_probe:
                _before_first(guest, faults, *faults.at_probe)
            if faults.at_wait:
                _before_wait(guest, faults)
            if faults.after_power_off:
                _after_power_off(guest, faults)
            yield guest

    return start


def _before_first(guest, faults, check, action):
    real = guest.probing

    def probing(storage, left):
        if storage.check == check and faults.event.at is None:
            faults.event.now()
            action(guest)
            guest._client.timeout = min(guest._client.timeout, faults.limit)
        return real(storage, lambda: min(left(), faults.limit) if faults.event.at else left())

    guest.probing = probing


def _before_wait(guest, faults):
    real = guest.wait_console

    def wait_console(text, timeout):
        faults.event.now()
        faults.at_wait(guest)
        return real(text, timeout)

    guest.wait_console = wait_console


def _after_power_off(guest, faults):
    real = guest.power_off

    def power_off(timeout):
        evidence = real(timeout)
        faults.event.now()
        faults.after_power_off()
        return evidence

    guest.power_off = power_off


def kill(program):
    """Return what kills a program of a machine."""
    return lambda guest: os.kill(guest._machine.pids[program], signal.SIGKILL)
