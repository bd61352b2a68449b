"""Programs that are measured: alone, or several in turn so that a machine whose speed changes slows all of them."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from guestforge.core.errors import BuildError
from guestforge.core.progress import bar
from guestforge.core.run import Process, spawn

TURN: Final = 5.0  # seconds that one works while the others are stopped
SAMPLE: Final = 0.5  # seconds between two looks at the memory
EXCERPT_LINES: Final = 20
PAGE_KIB: Final = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(frozen=True, slots=True)
class Command:
    """A program's arguments, and what is in its environment besides the minimal one."""

    argv: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """What commands took: wall and processor time in seconds, and their largest resident memory in KiB."""

    seconds: float
    processor: float
    peak_kib: int


class Lane:
    """Commands that run one after another whenever it is their turn. `log` gets their output."""

    def __init__(self, commands: Sequence[Command], log: Path) -> None:
        self._waiting = list(commands)
        self._log = log
        self._running: Process | None = None
        self._stack = contextlib.ExitStack()
        self._seconds = self._processor = 0.0
        self._peak_kib = 0

    @property
    def done(self) -> bool:
        """Whether all commands have ended."""
        return self._running is None and not self._waiting

    @property
    def cost(self) -> Cost:
        """What the commands have taken so far."""
        return Cost(self._seconds, self._processor, self._peak_kib)

    def turn(self, seconds: float) -> None:
        """Work for some seconds, or until all is done. Raises BuildError for a command that fails."""
        start = time.monotonic()
        deadline = start + seconds
        self._signal(signal.SIGCONT)
        while not self.done and (left := deadline - time.monotonic()) > 0:
            self._work(min(left, SAMPLE))
        self._signal(signal.SIGSTOP)
        self._seconds += time.monotonic() - start

    def close(self) -> None:
        """End what is running. What is stopped can't end itself, so it goes on until it is told to."""
        self._signal(signal.SIGCONT)
        self._stack.close()

    def _work(self, seconds: float) -> None:
        running = self._running or self._start()
        before = _reaped()
        code = running.wait(seconds)
        if code is None:
            self._peak_kib = max(self._peak_kib, sum(map(_resident, descendants(running.pid))))
            return
        self._processor += _reaped() - before
        self._running = None
        self._stack.close()
        if code != 0:
            lines = self._log.read_text(errors="replace").splitlines()[-EXCERPT_LINES:]
            raise BuildError(f"a measured command ended with exit code {code}", excerpt="\n".join(lines))

    def _start(self) -> Process:
        command = self._waiting.pop(0)
        output = self._stack.enter_context(self._log.open("ab"))
        process = spawn(command.argv, env=command.env, stdout=output, stderr=subprocess.STDOUT)
        self._running = self._stack.enter_context(process)
        return self._running

    def _signal(self, number: signal.Signals) -> None:
        """Signal all that was started, the first ancestor first: one that is stopped starts nothing more."""
        if self._running is None:
            return
        told: set[int] = set()
        while new := {group for pid in descendants(self._running.pid) if (group := _group(pid))} - told:
            for group in sorted(new, key=lambda group: group != _group(self._running.pid)):  # type: ignore[union-attr]
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, number)
            told |= new


def in_turn(lanes: Sequence[Lane], turn: float = TURN) -> None:
    """Let lanes work in turn until all are done; nothing of them is left afterwards, however this ends."""
    with contextlib.ExitStack() as stack:
        for lane in lanes:
            stack.callback(lane.close)
        while waiting := [lane for lane in lanes if not lane.done]:
            for lane in waiting:
                lane.turn(turn)


def alone(command: Command, log: Path) -> Cost:
    """Run one command; return what it took, with the memory of all that it started."""
    lane = Lane([command], log)
    in_turn([lane], turn=float("inf"))
    return lane.cost


def seconds_of(command: Command, log: Path) -> float:
    """Run one command; return its wall time, without looking at it meanwhile. Raises BuildError if it fails."""
    with log.open("ab") as output:
        start = time.monotonic()
        with spawn(command.argv, env=command.env, stdout=output, stderr=subprocess.STDOUT) as process:
            code = process.popen.wait()
            seconds = time.monotonic() - start
    if code != 0:
        lines = log.read_text(errors="replace").splitlines()[-EXCERPT_LINES:]
        raise BuildError(f"a measured command ended with exit code {code}", excerpt="\n".join(lines))
    return seconds


def repeated(title: str, times: int, what: str, measure: Callable[[], float]) -> list[float]:
    """Measure several times, with a bar; return each value."""
    values = []
    with bar(title, times, what) as shown:
        for _ in range(times):
            values.append(measure())
            shown.update()
    return values


def descendants(pid: int) -> list[int]:
    """Return a process and all below it, parents first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # the name may hold anything, parentheses too; after it come state and parent, proc(5)
                yield int(entry.name), int(Path(entry.path, "stat").read_text().rpartition(")")[2].split()[1])


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KIB
    except (OSError, IndexError):
        return 0


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _reaped() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
