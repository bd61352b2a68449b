"""The one place that starts other programs.

Every program gets an argv list (never a shell string), a small fixed environment, no standard input unless some is
given, and a process group of its own that is ended whole when we leave, whichever way we leave.
"""

import codecs
import contextlib
import ctypes
import os
import selectors
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from guestforge.core.countdown import countdown
from guestforge.core.environment import environment
from guestforge.core.errors import BuildError, GuestforgeError, UserError
from guestforge.core.signals import awaited, held

Argv = Sequence[str | Path]

EXCERPT_LINES = 20
READ_SIZE = 64 * 1024
STOP_GRACE = 3.0  # seconds between SIGTERM and SIGKILL
PR_SET_PDEATHSIG = 1  # prctl(2)
_prctl = ctypes.CDLL(None).prctl  # looked up before fork: a child of a threaded parent must not load libraries


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended. `output` is its standard output and error, in the order in which they came."""

    argv: tuple[str, ...]
    returncode: int
    output: str


def find_tool(name: str) -> Path | None:
    """Return where a program is, on PATH or in the system directories, or None."""
    for directory in environment()["PATH"].split(os.pathsep):
        candidate = Path(directory) / name
        # both say no, and raise nothing, in a directory of PATH that we may not look into
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112 - Path.is_dir may raise
            return candidate
    return None


def run(
    argv: Argv,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    check: bool = True,
    timeout: float | None = None,
    error: type[GuestforgeError] = BuildError,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program to its end and return its output.

    `log` gets the whole output appended, `on_line` each line as it comes; `timeout` is in seconds.
    Raises UserError for a program that is not installed, and `error` for one that fails (unless `check` is False)
    or that overruns its time.
    """
    words = tuple(os.fspath(word) for word in argv)
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log else None
        process = stack.enter_context(
            spawn(words, cwd=cwd, env=env, stdin=subprocess.PIPE if input else None, pass_fds=pass_fds)
        )
        output = _collect(process.popen, input, sink, on_line, timeout)
        if output is None:
            raise error(f"{words[0]} did not finish within {timeout:g} s", hint=f"the command was: {shlex.join(words)}")
        completed = Completed(words, process.finish(), output)
    if check and completed.returncode != 0:
        raise failure(completed, log=log, error=error)
    return completed


def ending(code: int) -> str:
    """Return how a program ended, in words; a negative code is the signal that ended it, as `subprocess` has it."""
    return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def failure(
    completed: Completed, *, log: Path | None = None, error: type[GuestforgeError] = BuildError
) -> GuestforgeError:
    """Return the error that describes a program's failure: how it ended, its last lines, the command to repeat it."""
    where = f"; the full log is {log}" if log else ""
    return error(
        f"{Path(completed.argv[0]).name} {ending(completed.returncode)}{where}",
        excerpt="\n".join(completed.output.splitlines()[-EXCERPT_LINES:]),
        hint=f"the command was: {shlex.join(completed.argv)}",
    )


class Process:
    """A running program, ended with its whole process group when the `with` block is left."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen

    @property
    def pid(self) -> int:
        """The process id, which is the process group's id too."""
        return self.popen.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        return self.popen.poll()

    def finish(self) -> int:
        """Wait until it has ended; return the exit code."""
        awaited(self._ends)
        return self.popen.returncode

    def wait(self, timeout: float) -> int | None:
        """Wait for up to `timeout` seconds; return the exit code, or None if it still runs."""
        awaited(self._ends, timeout)
        return self.popen.returncode

    def stop(self, grace: float = STOP_GRACE) -> int:
        """End the process group: SIGTERM, `grace` seconds, then SIGKILL. Return the exit code."""
        if self.popen.poll() is None:
            self._signal(signal.SIGTERM)
            self.wait(grace)
        self._signal(signal.SIGKILL)  # whatever the leader left behind in its group
        return self.finish()

    def end(self) -> None:
        """End the process group as `stop` does, and close our ends of its pipes."""
        self.stop()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _ends(self, seconds: float) -> bool:
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, number)


@contextlib.contextmanager
def spawn(
    argv: Argv,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    outlives_us: bool = False,
) -> Iterator[Process]:
    """Start a program and yield it; it and its children are ended when the block is left, or when we die.

    One that becomes another user, or that `outlives_us`, is not ended when we die. Output goes to a pipe (both streams
    in one) unless `stdout` says otherwise. Raises UserError if the program is not installed.
    """
    how = {
        "cwd": cwd,
        "env": environment(env),
        "stdin": subprocess.DEVNULL if stdin is None else stdin,
        "stdout": subprocess.PIPE if stdout is None else stdout,
        "stderr": subprocess.STDOUT if stderr is None else stderr,
        "pass_fds": pass_fds,
    }
    process = None
    try:
        try:
            with held() as mask:  # Python must not be interrupted in what it does at a fork(2) either
                process = Process(_popen(argv, partial(_in_child, mask, outlives_us), how))
            yield process
        finally:
            if process:
                process.end()
    except KeyboardInterrupt:
        if process:
            process.end()  # it may have come while that was done; none follows
        raise


def _popen(argv: Argv, in_child: Callable[[], None], how: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    words = [os.fspath(word) for word in argv]
    try:
        return subprocess.Popen(
            words,
            process_group=0,
            preexec_fn=in_child,  # noqa: PLW1509 - calls only functions looked up before the fork
            executable=find_tool(words[0]) if "/" not in words[0] else None,
            **how,
        )
    except FileNotFoundError as e:
        if how["cwd"] is not None and not how["cwd"].is_dir():
            raise
        raise UserError(f"{words[0]} is not installed", hint="`./invoke doctor` names the package that has it") from e


def _in_child(mask: Iterable[int], outlives_us: bool) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if not outlives_us:
        die_with_parent()


def die_with_parent() -> None:
    """Have this process killed once the thread that started it is gone."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _collect(
    popen: subprocess.Popen[bytes],
    input: bytes | None,
    sink: IO[bytes] | None,
    on_line: Callable[[str], None] | None,
    timeout: float | None,
) -> str | None:
    """Feed and drain a program until it closes its output; None when `timeout` is over before that."""
    assert popen.stdout is not None
    left = countdown(timeout)
    feed = memoryview(input or b"")
    lines = _Lines(on_line)
    with selectors.DefaultSelector() as selector:
        selector.register(popen.stdout, selectors.EVENT_READ)
        if popen.stdin is not None:
            os.set_blocking(popen.stdin.fileno(), False)
            selector.register(popen.stdin, selectors.EVENT_WRITE)
        while True:
            if (rest := left()) == 0:
                return None
            for key, _ in awaited(selector.select, rest):
                if key.fileobj is popen.stdout:
                    data = os.read(popen.stdout.fileno(), READ_SIZE)
                    if not data:
                        return lines.finish()
                    if sink:
                        sink.write(data)
                    lines.add(data)
                else:
                    feed = _feed(popen, feed, selector)


def _feed(popen: subprocess.Popen[bytes], feed: memoryview, selector: selectors.BaseSelector) -> memoryview:
    assert popen.stdin is not None
    try:
        feed = feed[os.write(popen.stdin.fileno(), feed[:READ_SIZE]) :]
    except BrokenPipeError:
        feed = feed[:0]
    if not feed:
        selector.unregister(popen.stdin)
        popen.stdin.close()
    return feed


class _Lines:
    """Collects output as text and hands on each whole line."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._chunks: list[str] = []
        self._partial = ""

    def add(self, data: bytes, final: bool = False) -> None:
        text = self._decoder.decode(data, final)
        self._chunks.append(text)
        if self._on_line:
            *lines, self._partial = (self._partial + text).split("\n")
            for line in lines:
                self._on_line(line.rstrip("\r"))

    def finish(self) -> str:
        self.add(b"", final=True)
        if self._on_line and self._partial:
            self._on_line(self._partial)
        return "".join(self._chunks)
