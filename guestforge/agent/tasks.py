"""Containers as a container runtime has them: the verbs of containerd's runtime v2 task service, on a guest's agent.

https://github.com/containerd/containerd/blob/main/api/runtime/task/v3/shim.proto has them. A process is known by its
container's id and its own (empty for the first one) and never by a number: those are the guest's.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from guestforge.agent.answers import ContainerStats, Version
from guestforge.agent.client import AgentClient
from guestforge.agent.errors import AgentError, Code
from guestforge.agent.proto import agent_pb2, oci_pb2
from guestforge.agent.storage import Storage
from guestforge.agent.ttrpc import Call
from guestforge.core.countdown import countdown
from guestforge.core.signals import awaited

FIRST: Final = ""  # the id of a container's first process
FOREVER: Final = 10 * 365 * 86_400.0  # seconds that a call may wait: many more are too much for a clock


class Status(StrEnum):
    """How far a process is."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class TaskError(AgentError):
    """What a verb can't do, with a status code as containerd's errors have one."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: its exit status, 128 and the number for a signal, and when it was told (since 1970)."""

    status: int
    at: float


@dataclass(frozen=True, slots=True)
class State:
    """A process, as State tells it; `exit` is that of one that is stopped."""

    container_id: str
    exec_id: str
    status: Status
    terminal: bool
    exit: Exit | None


@dataclass(slots=True, eq=False)
class _Process:
    spec: oci_pb2.Process
    begun: bool = False
    ending: Call[agent_pb2.WaitProcessResponse] | None = None  # WaitProcess, from its start on
    decided: threading.Event = field(default_factory=threading.Event)  # it has been started, or will never be

    def exit(self) -> Exit | None:
        """Return how it ended, None while it has not."""
        if self.ending is None or not self.ending.wait(0):
            return None
        return Exit(self.ending.result().status, self.ending.ended_at or 0.0)


@dataclass(slots=True, eq=False)
class _Container:
    processes: dict[str, _Process]
    paused: bool = False


class TaskService:
    """The tasks of one sandbox, which was created. Verbs may be called from several threads at once.

    They raise TaskError for what their own books forbid (no such process, one that has ended), and what AgentClient's
    methods raise.
    """

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._lock = threading.Lock()  # of the books; nothing is asked of the agent under it
        self._containers: dict[str, _Container] = {}

    # Containers

    def create(
        self, container_id: str, spec: oci_pb2.Spec, *, storages: Sequence[Storage] = (), timeout: float | None = None
    ) -> None:
        """Create a container and its first process."""
        with self._lock:
            if container_id in self._containers:
                raise TaskError(Code.ALREADY_EXISTS, f"there is a container {container_id}")
            self._containers[container_id] = _Container({FIRST: _Process(spec.Process)})
        with _undone(lambda: self._forget(container_id)):
            self._client.create_container(container_id, spec, storages=storages, timeout=timeout)

    def exec(self, container_id: str, exec_id: str, process: oci_pb2.Process) -> None:
        """Note one more process of a container, for Start."""
        with self._lock:
            container = self._container(container_id)
            if exec_id in container.processes:
                raise TaskError(Code.ALREADY_EXISTS, f"container {container_id} has a process {exec_id}")
            container.processes[exec_id] = _Process(process)

    def start(self, container_id: str, exec_id: str = FIRST, timeout: float | None = None) -> None:
        """Start a process that was created."""
        with self._lock:
            process = self._process(container_id, exec_id)
            if process.begun:
                raise TaskError(Code.FAILED_PRECONDITION, f"{_named(container_id, exec_id)} was started before")
            process.begun = True
        with _undone(lambda: setattr(process, "begun", False)):
            if exec_id:
                self._client.exec_process(container_id, exec_id, process.spec, timeout)
            else:
                self._client.start_container(container_id, timeout)
        process.ending = self._client.begin_wait(container_id, exec_id)
        process.decided.set()

    def delete(self, container_id: str, exec_id: str = FIRST, timeout: float | None = None) -> Exit | None:
        """Remove a process that does not run, with the first one its container; return how it ended, if it ran."""
        state = self.state(container_id, exec_id)
        if state.status not in (Status.CREATED, Status.STOPPED):
            raise TaskError(Code.FAILED_PRECONDITION, f"{_named(container_id, exec_id)} is {state.status}")
        if exec_id:
            with self._lock:
                gone = [self._container(container_id).processes.pop(exec_id)]
        else:
            self._client.remove_container(container_id, timeout)
            gone = self._forget(container_id)
        for process in gone:
            process.decided.set()
        return state.exit

    def update(self, container_id: str, resources: oci_pb2.LinuxResources, timeout: float | None = None) -> None:
        """Change a container's limits."""
        self._known(container_id)
        self._client.update_container(container_id, resources, timeout)

    def pause(self, container_id: str, timeout: float | None = None) -> None:
        """Stop all processes of a container."""
        container = self._known(container_id)
        self._client.pause_container(container_id, timeout)
        container.paused = True

    def resume(self, container_id: str, timeout: float | None = None) -> None:
        """Have them go on."""
        container = self._known(container_id)
        self._client.resume_container(container_id, timeout)
        container.paused = False

    def stats(self, container_id: str, timeout: float | None = None) -> ContainerStats:
        """Return what a container has used."""
        self._known(container_id)
        return self._client.stats_container(container_id, timeout)

    def pids(self, container_id: str) -> tuple[str, ...]:
        """Return the ids of a container's processes that run, that of the first one (empty) before the others."""
        with self._lock:
            processes = dict(self._container(container_id).processes)
        return tuple(name for name, process in processes.items() if process.ending and not process.exit())

    def checkpoint(self, container_id: str) -> None:
        """Not supported: a guest's memory is the machine's to keep."""
        self._known(container_id)
        raise TaskError(Code.UNIMPLEMENTED, "a container in a guest can't be checkpointed")

    # Processes

    def state(self, container_id: str, exec_id: str = FIRST) -> State:
        """Return how far a process is."""
        with self._lock:
            process, paused = self._process(container_id, exec_id), self._container(container_id).paused
        ended = process.exit()
        if process.ending is None:
            status = Status.CREATED
        elif ended:
            status = Status.STOPPED
        else:
            status = Status.PAUSED if paused else Status.RUNNING
        return State(container_id, exec_id, status, process.spec.Terminal, ended)

    def kill(
        self,
        container_id: str,
        exec_id: str = FIRST,
        number: int = signal.SIGTERM,
        *,
        every: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Send a signal to a process or, with `every`, to all of the container that run."""
        if self.state(container_id, exec_id).status is Status.STOPPED:
            raise TaskError(Code.NOT_FOUND, f"{_named(container_id, exec_id)} has ended")
        for name in self.pids(container_id) if every else (exec_id,):
            self._client.signal_process(container_id, name, number, timeout)

    def wait(self, container_id: str, exec_id: str = FIRST, timeout: float = FOREVER) -> Exit:
        """Wait for a process's end, be it started or not; return how it ended."""
        left = countdown(timeout)
        with self._lock:
            process = self._process(container_id, exec_id)
        named = _named(container_id, exec_id)
        if awaited(process.decided.wait, left()):
            if process.ending is None:
                raise TaskError(Code.NOT_FOUND, f"{named} was removed before it was started")
            process.ending.wait(left())
        if ended := process.exit():
            return ended
        raise TaskError(Code.DEADLINE_EXCEEDED, f"{named} did not end within {timeout:g} s")

    def resize_pty(
        self, container_id: str, rows: int, columns: int, exec_id: str = FIRST, timeout: float | None = None
    ) -> None:
        """Tell a process's terminal how large it is."""
        self.state(container_id, exec_id)
        self._client.resize_terminal(container_id, rows, columns, exec_id, timeout)

    def close_io(self, container_id: str, exec_id: str = FIRST, timeout: float | None = None) -> None:
        """End a process's standard input."""
        self.state(container_id, exec_id)
        self._client.close_stdin(container_id, exec_id, timeout)

    # The service

    def connect(self, container_id: str) -> Version:
        """Return who serves a container."""
        self._known(container_id)
        return self._client.version()

    def shutdown(self, timeout: float | None = None) -> None:
        """End the sandbox, in which there must be no container any more."""
        with self._lock:
            if self._containers:
                raise TaskError(Code.FAILED_PRECONDITION, f"there are containers: {', '.join(self._containers)}")
        self._client.destroy_sandbox(timeout)

    # The books

    def _container(self, container_id: str) -> _Container:
        container = self._containers.get(container_id)
        if container is None:
            raise TaskError(Code.NOT_FOUND, f"there is no container {container_id}")
        return container

    def _process(self, container_id: str, exec_id: str) -> _Process:
        process = self._container(container_id).processes.get(exec_id)
        if process is None:
            raise TaskError(Code.NOT_FOUND, f"container {container_id} has no process {exec_id}")
        return process

    def _known(self, container_id: str) -> _Container:
        with self._lock:
            return self._container(container_id)

    def _forget(self, container_id: str) -> list[_Process]:
        with self._lock:
            container = self._containers.pop(container_id, None)
        return list(container.processes.values()) if container else []


@contextlib.contextmanager
def _undone(undo: Callable[[], object]) -> Iterator[None]:
    """Undo what the books say already, where the agent does not do it."""
    try:
        yield
    except BaseException:
        undo()
        raise


def _named(container_id: str, exec_id: str) -> str:
    return f"process {exec_id} of container {container_id}" if exec_id else f"container {container_id}"
