"""One boot under check: what is known of it so far."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from guestforge.check.artifacts import DEFAULT_TIMEOUT
from guestforge.check.engine import CheckFailure, NotAskedError, RunEnded
from guestforge.check.guest import Details, Guest, Machine
from guestforge.check.report import CheckResult, Measurements, Phases, Qemu, Report
from guestforge.check.storages import ShareStorage, Storage
from guestforge.core.countdown import countdown


class Boot:
    """The context of the checks. `guest` is there from the moment the machine has started."""

    def __init__(self, machine: Machine, await_shares: Callable[[], None]) -> None:
        """`await_shares` returns once the shares hold what the guest is to find, and raises what kept them from it."""
        self.machine = machine
        self._await_shares = await_shares
        self.storages = machine.storages
        self.phases = Phases()
        self.measurements = Measurements()
        self.started = time.monotonic()
        self._guest: Guest | None = None

    @property
    def guest(self) -> Guest:
        """The running guest."""
        assert self._guest is not None, "the machine has not been started"
        return self._guest

    def has_started(self, guest: Guest) -> None:
        """Take in the guest."""
        self._guest = guest
        self.reached("qemu_start")

    @property
    def timeout(self) -> float:
        """Seconds that a check may take."""
        return self.machine.options.timeout or DEFAULT_TIMEOUT[self.guest.accelerator.name]

    @property
    def virtio_fs_server(self) -> str | None:
        """The server of the share, None before the machine has started."""
        return self._guest.virtio_fs_server if self._guest else None

    @property
    def vsock_device(self) -> str | None:
        """The device that carries the agent's connection, None before the machine has started."""
        return self._guest.vsock_device if self._guest else None

    def countdown(self) -> Callable[[], float]:
        """Return what tells how many seconds a check that starts now still has."""
        return countdown(self.timeout)

    def reached(self, phase: str) -> float:
        """Note that a phase is reached now; return the seconds since the start."""
        seconds = round(time.monotonic() - self.started, 3)
        self.phases = replace(self.phases, **{phase: seconds})
        return seconds

    def storage(self, check: str) -> Storage:
        """Return the storage of a check."""
        return next(storage for storage in self.storages if storage.check == check)

    def prepared(self, check: str) -> Storage:
        """Return the storage of a check, ready for containers; raises CheckFailure where there can't be any.

        Raises NotAskedError if it is not asked of this agent.
        """
        storage = self.storage(check)
        if not self.asks_for(storage):
            raise NotAskedError(f"the agent has no storage driver {storage.driver}")
        if isinstance(storage, ShareStorage):
            self._await_shares()
        if self._sandbox_failure is None:
            return storage
        raise self._sandbox_failure

    def asks_for(self, storage: Storage) -> bool:
        """Whether the agent must serve a storage: ours every one, another those that it says it has a driver for."""
        return self.machine.artifacts.own_agent or storage.driver in self.details.storage_handlers

    def report(self, results: tuple[CheckResult, ...]) -> Report:
        """Return the report of these results."""
        guest = self._guest
        return Report(
            arch=self.machine.artifacts.arch.name,
            guest=self.machine.artifacts.guest,
            artifact=self.machine.artifact,
            accelerator=guest.accelerator.name if guest else "none",
            accelerator_reason=guest.accelerator.reason if guest else "the machine did not start",
            checks=results,
            phases=self.phases,
            measurements=self.measurements,
            qemu=guest.qemu if guest else Qemu("unknown", ()),
            storages=tuple(storage.check for storage in self.storages),
            digests=self.machine.artifacts.booted(self.machine.artifact),
        )

    @cached_property
    def details(self) -> Details:
        """What the agent tells of itself; asked once."""
        return self.guest.details()

    @cached_property
    def _sandbox_failure(self) -> CheckFailure | None:
        """Create the sandbox. It is asked for once: where it was refused, the first reason is the true one."""
        try:
            self.guest.create_sandbox()
        except RunEnded:
            raise
        except CheckFailure as e:
            return e
        return None
