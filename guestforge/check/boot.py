"""One boot under check: what is known of it so far."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

from guestforge.check.engine import CheckFailure
from guestforge.check.guest import Guest, Machine
from guestforge.check.options import DEFAULT_TIMEOUT
from guestforge.check.report import CheckResult, Measurements, Phases, Qemu, Report
from guestforge.check.sandbox import RefusedError, mount_most
from guestforge.check.storages import Storage


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
        deadline = time.monotonic() + self.timeout
        return lambda: max(0.0, deadline - time.monotonic())

    def reached(self, phase: str) -> float:
        """Note that a phase is reached now; return the seconds since the start."""
        seconds = round(time.monotonic() - self.started, 3)
        self.phases = replace(self.phases, **{phase: seconds})
        return seconds

    def storage(self, check: str) -> Storage:
        """Return the storage of a check, mounted; raises CheckFailure with the agent's reason if it is not."""
        storage = next(storage for storage in self.storages if storage.check == check)
        if reason := self._refused.get(storage):
            raise CheckFailure(f"the agent did not mount it: {reason}", self.guest.console_tail(10))
        return storage

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
        )

    @cached_property
    def _refused(self) -> Mapping[Storage, str]:
        """The storages that the agent does not mount, with its reasons; asking creates the sandbox."""
        self._await_shares()
        try:
            return mount_most(self.storages, self.guest.create_sandbox).refused
        except RefusedError as e:
            return dict.fromkeys(self.storages, str(e))
