"""What the checks ask of a running guest, be it a machine under QEMU or a test's double."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from guestforge.agent.container import Result as Ran
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.exercise import Answer
from guestforge.check.report import Measurements, Qemu
from guestforge.check.stage import Stage
from guestforge.check.storages import Storage
from guestforge.core.runtime import HOST, Runtime
from guestforge.project.options import Artifact, CheckOptions
from guestforge.vmm.accel import Accelerator

Ask = Callable[[Sequence[str]], Answer]  # has the probe do a step


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine to start: what it boots, the storages under test, where its console's log goes, where QEMU runs."""

    artifacts: GuestArtifacts
    artifact: Artifact
    options: CheckOptions
    storages: tuple[Storage, ...]
    console_log: Path
    runtime: Runtime = HOST

    def place(self, check: str) -> Path:
        """Return where on the host the storage of a check is."""
        return next(storage.place for storage in self.storages if storage.check == check)


@dataclass(frozen=True, slots=True)
class Details:
    """What the agent tells of itself."""

    version: str
    storage_handlers: frozenset[str]


class Guest(Protocol):
    """A running guest. Every method raises RunEnded as soon as the guest or a program behind it is beyond use."""

    accelerator: Accelerator
    qemu: Qemu
    virtio_fs_server: str
    vsock_device: str

    def wait_console(self, text: str, timeout: float) -> str | None:
        """Return the console's first line with a text, None if none came within `timeout` seconds."""

    def console_tail(self, lines: int) -> str:
        """Return the console's last lines, without control characters."""

    def console_faults(self) -> Sequence[str]:
        """Return the lines of the whole console that no healthy guest prints."""

    def wait_serving(self, timeout: float) -> bool:
        """Whether the agent said SERVING within `timeout` seconds."""

    def details(self) -> Details:
        """Ask the agent for its details."""

    def measure(self) -> Measurements:
        """Measure guest and QEMU as they are now."""

    def create_sandbox(self) -> None:
        """Ask for a sandbox."""

    def probing(self, storage: Storage, left: Callable[[], float]) -> AbstractContextManager[Ask]:
        """Have the probe run in a container on a storage, which is mounted for it, and yield what asks it.

        `left` returns the seconds that remain. Raises CheckFailure where it gives no answer, or said more than it was
        asked, or the agent does not mount the storage, with the agent's words.
        """

    def run_program(self, storage: Storage, args: Sequence[str], timeout: float, limit: int) -> Ran:
        """Run a program in a container on a storage for up to `timeout` seconds.

        It may write `limit` bytes to each of its streams.
        """

    def drive(self, proof: Callable[[Stage], str], left: Callable[[], float]) -> str:
        """Have containers driven as a runtime does; return the evidence. `left` returns the seconds that remain."""

    def release(self, storage: Storage, timeout: float) -> None:
        """Have the agent unmount a storage, within `timeout` seconds."""

    def power_off(self, timeout: float) -> str:
        """Destroy the sandbox; return how the machine ended, CheckFailure unless it ended itself, and well."""


class Starter(Protocol):
    """Starts a machine; leaving the context ends everything that was started for it."""

    def __call__(self, machine: Machine) -> AbstractContextManager[Guest]:
        """Raises RunEnded if it does not start, UserError for a missing program."""
