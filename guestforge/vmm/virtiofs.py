"""Which virtio-fs server a machine gets, and how it is started: the distribution's virtiofsd, or our own device."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from guestforge.arch import Arch
from guestforge.core.capabilities import may_mount
from guestforge.core.errors import UserError
from guestforge.core.runtime import HOST, Runtime
from guestforge.project.options import WantedServer
from guestforge.vmm import virtiofsd
from guestforge.vmm.plan import Share
from guestforge.vmm.virtiofsd import Virtiofsd, virtiofsd_argv, why_not

Kind = Literal["virtiofsd", "builtin"]

NONE_INSTALLED: Final = "no virtiofsd starts on this host"
ASKED_FOR: Final = "asked for"


@dataclass(frozen=True, slots=True)
class VirtioFsServer:
    """A machine's virtio-fs server, and why that one. `installed` is the virtiofsd, where it is that."""

    kind: Kind
    reason: str
    installed: Virtiofsd | None = None

    @property
    def name(self) -> str:
        """Such as `guestforge virtio-fs` and `virtiofsd (C, QEMU 7.2.22)`."""
        return self.installed.name if self.installed else "guestforge virtio-fs"

    def describe(self) -> str:
        """Return which server it is and why, for a report."""
        return f"{self.name[:-1]}; {self.reason})" if self.name.endswith(")") else f"{self.name} ({self.reason})"


def choose_virtiofs(arch: Arch, wanted: WantedServer = "auto", runtime: Runtime = HOST) -> VirtioFsServer:
    """Return the server for guests of an architecture.

    By default that is virtiofsd where guest and host have the same binary interface, and ours where they do not, or
    where no virtiofsd is installed. Raises UserError when virtiofsd is asked for and there is none.
    """
    return _CHOICES[wanted](arch, runtime)


def virtiofs_argv(server: VirtioFsServer, arch: Arch, share: Share, descriptor: int) -> list[str]:
    """Return the command line that serves a directory to a guest of an architecture on a listening socket."""
    directory = share.directory.absolute()
    if server.installed:
        return virtiofsd_argv(server.installed, directory, descriptor, as_we_are=may_mount())
    module = [sys.executable, "-m", "guestforge.vhost.fs"]
    switches = {"--allow-exposed": share.allow_exposed, "--read-only": share.read_only}
    given = [switch for switch, wanted in switches.items() if wanted]
    return [*module, f"--fd={descriptor}", f"--shared-dir={directory}", f"--guest-arch={arch.name}", *given]


def _auto(arch: Arch, runtime: Runtime) -> VirtioFsServer:
    if doubt := why_not(arch):
        return VirtioFsServer("builtin", doubt)
    found = virtiofsd.find_virtiofsd(runtime)
    if found is None:
        return VirtioFsServer("builtin", NONE_INSTALLED)
    return VirtioFsServer("virtiofsd", "byte order and open flags are the host's", found)


def _virtiofsd(arch: Arch, runtime: Runtime) -> VirtioFsServer:
    found = virtiofsd.find_virtiofsd(runtime)
    if found is None:
        raise UserError(
            "there is no virtiofsd on this host",
            hint="`./invoke doctor` names the package that has it; --virtio-fs-server auto takes our own",
        )
    doubt = why_not(arch)
    return VirtioFsServer("virtiofsd", f"{ASKED_FOR}, though {doubt}" if doubt else ASKED_FOR, found)


_CHOICES: Final[dict[WantedServer, Callable[[Arch, Runtime], VirtioFsServer]]] = {
    "auto": _auto,
    "virtiofsd": _virtiofsd,
    "builtin": lambda _, __: VirtioFsServer("builtin", ASKED_FOR),
}
