"""One container that runs a command on this machine's files, its output ours, and gone when we are done with it."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests
from docker.errors import DockerException, NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Mount

from guestforge.core.errors import BuildError
from guestforge.core.progress import say
from guestforge.docker.confine import confinement
from guestforge.docker.engine import Engine, engine_errors, told

LABEL: Final = "dev.guestforge.run"
END_LIMIT: Final = 30  # seconds that a command has to end by itself after Ctrl-C
AGAIN: Final = "the same command goes on from where it was"
KILLED: Final = 128 + 9


@dataclass(frozen=True, slots=True)
class Command:
    """What runs: words, and its environment. `network`: it has the engine's machine's, or none."""

    words: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    mounts: Sequence[Mount]
    network: bool
    home: Path


def run(engine: Engine, image: str, command: Command) -> int:
    """Run a command to its end, and return its exit code.

    Raises BuildError for an engine that goes away, or a container that somebody else ended. On KeyboardInterrupt the
    command is interrupted too, and has some seconds to end.
    """
    has_terminal = os.isatty(sys.stdout.fileno()) and os.isatty(sys.stderr.fileno())
    with _container(engine, image, command, has_terminal=has_terminal) as container:
        with engine_errors(engine, "running in the container"):
            output: Iterator[Any] = (
                container.attach(stream=True) if has_terminal else container.attach(stream=True, demux=True)
            )
            container.start()
            if has_terminal:
                size = shutil.get_terminal_size()
                container.resize(size.lines, size.columns)
        try:
            _show(output)
        except KeyboardInterrupt:
            _interrupt(container)
            raise
        except (DockerException, requests.RequestException, OSError) as e:
            if isinstance(e, BrokenPipeError):
                _interrupt(container)
                raise
            raise told(e, engine, "running in the container") from e
        return _exit_code(engine, container)


def owner(pid: int) -> str:
    """Return what says whose a container is: a process, and when that was started, in ticks; nothing for none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{pid} {stat.rpartition(')')[2].split()[19]}"  # proc_pid_stat(5): field 22


def remove_orphans(engine: Engine) -> None:
    """Remove the containers of runs that were killed, and with them what still ran there."""
    with engine_errors(engine, "looking for containers of before"):
        for each in engine.client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
            theirs = each.labels[LABEL]
            if owner(int(theirs.split()[0])) != theirs:
                say(f"removing the container of a run that was killed: {each.short_id}")
                with contextlib.suppress(NotFound):
                    each.remove(force=True)


@contextlib.contextmanager
def _container(engine: Engine, image: str, command: Command, *, has_terminal: bool) -> Iterator[Container]:
    with engine_errors(engine, "creating the container"):
        container = engine.client.containers.create(
            image, list(command.words), **_settings(engine, command, has_terminal=has_terminal)
        )
    try:
        yield container
    finally:
        with contextlib.suppress(NotFound, DockerException, requests.RequestException, OSError):
            container.remove(force=True)


def _settings(engine: Engine, command: Command, *, has_terminal: bool) -> dict[str, Any]:
    user, group = os.geteuid(), os.getegid()
    return {
        "user": f"{user}:{group}",
        "group_add": list(map(str, os.getgroups())),
        "working_dir": str(command.cwd),
        "environment": dict(command.environment),
        "mounts": list(command.mounts),
        "network_mode": "host" if command.network else "none",
        "tmpfs": {"/tmp": "exec,mode=1777", str(command.home): f"exec,mode=0700,uid={user},gid={group}"},  # noqa: S108
        "init": True,
        "tty": has_terminal,
        "labels": {LABEL: owner(os.getpid())},
        "log_config": LogConfig(type="none"),
        **confinement(engine.options, network=command.network),
    }


def shared(writable: Sequence[Path], readable: Sequence[Path]) -> list[Mount]:
    """Return mounts of this machine's files at their own paths; whoever may write there may in the container."""
    read_only = {**dict.fromkeys(readable, True), **dict.fromkeys(writable, False)}
    return [Mount(str(path), str(path), type="bind", read_only=only) for path, only in read_only.items()]


def _show(output: Iterator[Any]) -> None:
    """Write what a command writes to where it would have gone."""
    for piece in output:
        pieces = piece if isinstance(piece, tuple) else (piece,)
        for stream, data in zip((sys.stdout, sys.stderr), pieces, strict=False):
            if data:
                stream.buffer.write(data)
                stream.flush()


def _interrupt(container: Container) -> None:
    """Have a command end as by Ctrl-C; one that does not is killed when its container is removed."""
    with contextlib.suppress(DockerException, requests.RequestException, OSError, KeyboardInterrupt):
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
