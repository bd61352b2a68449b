"""One container that runs a command on this machine's files, its output ours, and gone when we are done with it."""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Mount

from guestforge.core.errors import BuildError
from guestforge.docker.confine import confinement
from guestforge.docker.engine import FAULTS, Engine, engine_errors, told
from guestforge.docker.owner import LABEL, ours

END_LIMIT: Final = 30  # seconds that a command has to end by itself after Ctrl-C
KILLED: Final = 128 + 9  # the exit code of what SIGKILL ended
AGAIN: Final = "the same command goes on from where it was"
_WRITING: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Command:
    """What runs: words, and its environment. `network`: it has the engine's machine's, or none."""

    words: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    mounts: Sequence[Mount]
    network: bool
    home: Path


class Runs:
    """The containers that run now, which one who waits for all of them can interrupt."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: set[Container] = set()
        self._over = False

    def begin(self, container: Container) -> None:
        """Take note of one; raises KeyboardInterrupt where all of them have been ended."""
        with self._lock:
            if self._over:
                raise KeyboardInterrupt
            self._now.add(container)

    def end(self, container: Container) -> None:
        """Forget one."""
        with self._lock:
            self._now.discard(container)

    def interrupt(self) -> None:
        """Interrupt all of them; none is started after that."""
        with self._lock:
            self._over = True
            now = list(self._now)
        for each in now:
            _interrupt(each)


def run(engine: Engine, image: str, command: Command, runs: Runs, *, prefix: str = "") -> int:
    """Run a command to its end, and return its exit code.

    Its output is written as it comes or, with a prefix for those who run side by side, line by line. Raises BuildError
    for an engine that goes away, or a container that somebody else ended. On KeyboardInterrupt the command is
    interrupted too, and has some seconds to end.
    """
    has_terminal = not prefix and os.isatty(sys.stdout.fileno()) and os.isatty(sys.stderr.fileno())
    with _container(engine, image, command, has_terminal=has_terminal) as container:
        runs.begin(container)
        try:
            with engine_errors(engine, "running in the container"):
                output: Iterator[Any] = (
                    container.attach(stream=True) if has_terminal else container.attach(stream=True, demux=True)
                )
                container.start()
                if has_terminal:
                    size = shutil.get_terminal_size()
                    container.resize(size.lines, size.columns)
            _watch(engine, container, output, prefix)
            return _exit_code(engine, container)
        finally:
            runs.end(container)


def _watch(engine: Engine, container: Container, output: Iterator[Any], prefix: str) -> None:
    """Show what a container writes until it ends."""
    try:
        show(output, prefix)
    except (KeyboardInterrupt, BrokenPipeError):
        _interrupt(container)
        raise
    except FAULTS as e:
        raise told(e, engine, "running in the container") from e


@contextlib.contextmanager
def _container(engine: Engine, image: str, command: Command, *, has_terminal: bool) -> Iterator[Container]:
    with engine_errors(engine, "creating the container"):
        container = engine.client.containers.create(
            image, list(command.words), **_settings(engine, command, has_terminal=has_terminal)
        )
    try:
        yield container
    finally:
        with contextlib.suppress(*FAULTS):
            container.remove(force=True)


def _settings(engine: Engine, command: Command, *, has_terminal: bool) -> dict[str, Any]:
    return {
        "user": f"{os.geteuid()}:{os.getegid()}",
        "group_add": list(map(str, os.getgroups())),
        "working_dir": str(command.cwd),
        "environment": dict(command.environment),
        "mounts": list(command.mounts),
        "network_mode": "host" if command.network else "none",
        "tmpfs": dict.fromkeys(("/tmp", str(command.home)), "exec,mode=1777"),  # noqa: S108 - the container's own
        "init": True,
        "tty": has_terminal,
        "labels": {LABEL: ours()},
        "log_config": LogConfig(type="none"),
        **confinement(engine.options, is_podman=engine.is_podman, network=command.network),
    }


def shared(writable: Sequence[Path], readable: Sequence[Path]) -> list[Mount]:
    """Return mounts of this machine's files at their own paths; whoever may write there may in the container."""
    read_only = {**dict.fromkeys(readable, True), **dict.fromkeys(writable, False)}
    return [Mount(str(path), str(path), type="bind", read_only=only) for path, only in read_only.items()]


def show(output: Iterator[Any], prefix: str) -> None:
    """Write what a command writes to where it would have gone."""
    rest = [b"", b""]
    for piece in output:
        pieces = piece if isinstance(piece, tuple) else (piece,)
        for number, data in enumerate(pieces):
            if not prefix:
                _write(number, data or b"")
                continue
            *lines, rest[number] = (rest[number] + (data or b"")).split(b"\n")
            _write(number, b"".join(prefix.encode() + line + b"\n" for line in lines))
    for number, line in enumerate(rest):
        _write(number, prefix.encode() + line + b"\n" if line else b"")


def _write(number: int, data: bytes) -> None:
    if data:
        stream = (sys.stdout, sys.stderr)[number]
        with _WRITING:
            stream.buffer.write(data)
            stream.flush()


def _interrupt(container: Container) -> None:
    """Have a command end as by Ctrl-C; one that does not is killed when its container is removed."""
    with contextlib.suppress(*FAULTS, KeyboardInterrupt):
        container.kill("SIGINT")
        container.wait(timeout=END_LIMIT)


def _exit_code(engine: Engine, container: Container) -> int:
    with engine_errors(engine, "running in the container"):
        try:
            code = int(container.wait()["StatusCode"])
            container.reload()
            state = container.attrs["State"]
        except NotFound as e:
            raise BuildError("the container was removed while it ran", hint=AGAIN) from e
    if code == KILLED:
        why = "ran out of memory" if state.get("OOMKilled") else "was killed from outside"
        raise BuildError(f"the container {why}", hint=AGAIN)
    return code
