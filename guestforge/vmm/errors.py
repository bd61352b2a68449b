"""How a machine fails."""

from typing import Literal

from guestforge.core.errors import CheckError
from guestforge.vmm import faults

Kind = (
    faults.Kind
    | Literal["qemu-exited", "qemu-stopped", "qemu-failed", "virtiofs-died", "vsock-died", "helper-failed"]
    | Literal["log-failed", "watcher-failed", "timeout"]
)


class MachineError(CheckError):
    """A machine is beyond use, or did not do in time what was waited for.

    `kind` is a kind of console.Fault, or what became of a program: `qemu-failed` (did not start), `qemu-exited`,
    `qemu-stopped` (KVM internal error, an I/O error: QEMU is there and the guest does not run), `helper-failed` (a
    program behind a device did not start), `virtiofs-died`, `vsock-died`; what became of us: `log-failed` (console.log
    can't be written), `watcher-failed` (a fault of ours); or `timeout`.
    """

    def __init__(self, kind: Kind, message: str, *, hint: str | None = None, excerpt: str | None = None) -> None:
        super().__init__(message, hint=hint, excerpt=excerpt)
        self.kind = kind
