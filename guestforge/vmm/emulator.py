"""Which QEMU runs a guest, and what its TCG can't be trusted with.

TCG translates a guest's code page by page, and keeps the translations until it sees somebody write to the page. Two
writers it does not see, and the guest then runs what the page held before:

- A vhost-user process, such as a virtio-fs server, writes the guest's memory itself. So the guest clears every page
  before it gives one to a device (plan.CLEAR_PAGES): that is a write of its own processor.
- Before QEMU 8.2 an instruction that writes many bytes at once (DC ZVA, dcbz, MVCL, MVCOS, ...) dropped only the
  translations that hold the first of them: accel/tcg/cputlb.c had 1 for its size. Upstream's commit e2faabee78ff,
  "accel/tcg: Forward probe size on to notdirty_write", mended it. Where an architecture's kernel clears pages that way
  (Arch.tcg_forgets_since) its guests need a newer QEMU. On a release of Debian with an older one it is taken from the
  backports of that release: verified by apt, unpacked into the store, and not installed.
"""

import platform
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from guestforge.arch import Arch, host
from guestforge.core.cache import Place, user_cache
from guestforge.core.errors import GuestforgeError, UserError
from guestforge.core.graph import Evaluation
from guestforge.core.progress import say
from guestforge.core.runtime import HOST, Runtime
from guestforge.core.store import Store
from guestforge.sources.kernel_tree import TREE
from guestforge.sources.packages import package_step
from guestforge.sources.resolution import Archive
from guestforge.vmm.plan import AcceleratorName, MachinePlan, filled_from_outside
from guestforge.vmm.user import User

VERSION_LIMIT: Final = 10.0  # seconds
FIRMWARE: Final = "qemu-system-data"  # the package
FIRMWARE_PLACE: Final = "usr/share/qemu"

RUN_WITH_SINCE: Final = (9, 1)  # `-run-with user=` came, and -runas went with 10.0, docs/about/removed-features.rst

DIRECT_READS: Final = "code that a program reads with O_DIRECT from virtio-fs to where it has run other code"

_VERSION: Final = re.compile(r"version (\d{1,4})\.(\d{1,4})")


@dataclass(frozen=True, slots=True)
class Emulator:
    """A QEMU. `version` is its own first line, `firmware` where it looks for firmware first, `reason` why it is used.

    `forgets`: its TCG drops the translations of pages that its guest's kernel clears.
    """

    path: Path
    version: str
    reason: str
    firmware: Path | None = None
    forgets: bool = True

    @property
    def command(self) -> tuple[str, ...]:
        """The first words of a command line."""
        return (str(self.path), *(("-L", str(self.firmware)) if self.firmware else ()))

    def become(self, user: User) -> tuple[str, ...]:
        """The option by which it becomes a user before it serves the guest."""
        ids = f"{user.uid}:{user.gid}"
        return ("-run-with", f"user={ids}") if _since(self.version, RUN_WITH_SINCE) else ("-runas", ids)


def choose_emulator(
    arch: Arch,
    accelerator: AcceleratorName = "tcg",
    runtime: Runtime = HOST,
    *,
    mirror: str | None = None,
    refresh: bool = False,
) -> Emulator:
    """Return the QEMU for guests of an architecture: the host's, or a newer one where TCG needs that.

    Where a newer one can't be had it is the host's all the same: `forgets` is then False, and `reason` says why.
    Raises UserError if none is installed.
    """
    found = installed_emulator(arch, runtime)
    if accelerator == "kvm" or found.forgets:
        return found
    return _newer(arch, found, runtime, user_cache(), mirror=mirror, refresh=refresh)


def installed_emulator(arch: Arch, runtime: Runtime = HOST) -> Emulator:
    """Return a runtime's own QEMU for an architecture. Raises UserError if there is none."""
    path = runtime.find_tool(arch.qemu)
    if path is None:
        raise UserError(f"{arch.qemu} is not installed", hint=f"the package {arch.debian_qemu} has it")
    status = path.stat()
    version = _version_of(runtime, path, status.st_mtime_ns, status.st_size)
    return Emulator(path, version, "installed", forgets=_since(version, arch.tcg_forgets_since))


def untrusted(plan: MachinePlan, emulator: Emulator) -> tuple[str, ...]:
    """Return what the emulation of a machine can't be trusted with; nothing where the host's processor runs it."""
    if plan.accelerator == "kvm":
        return ()
    if not emulator.forgets:
        return (f"programs: old translations of a page may run in place of its code ({emulator.reason})",)
    return (DIRECT_READS,) if filled_from_outside(plan) else ()


def _since(version: str, first: tuple[int, int]) -> bool:
    """Whether a version is `first` or newer; one that is not understood is the user's own, and taken to be."""
    found = _VERSION.search(version)
    return found is None or (int(found[1]), int(found[2])) >= first


@lru_cache
def _version_of(runtime: Runtime, path: Path, _mtime_ns: int, _size: int) -> str:
    return _ask(runtime, path)


def _ask(runtime: Runtime, path: Path) -> str:
    return runtime.run([path, "--version"], timeout=VERSION_LIMIT, error=UserError).output.partition("\n")[0].strip()


@lru_cache
def _newer(
    arch: Arch, installed: Emulator, runtime: Runtime, cache: Place, *, mirror: str | None, refresh: bool
) -> Emulator:
    """Return a QEMU of the release's backports; the one that is installed where there is none."""
    since = ".".join(map(str, arch.tcg_forgets_since))
    need = f"TCG runs {arch.name} right from QEMU {since} on"
    try:
        return _unpacked(arch, Evaluation(Store(cache.path), runtime), mirror, refresh, need)
    except GuestforgeError as e:
        why = f"{need}, and a newer one can't be had: {e.message}"
        say(f"warning: {installed.version}: {why}")
        return replace(installed, reason=why)


def _unpacked(arch: Arch, evaluation: Evaluation, mirror: str | None, refresh: bool, need: str) -> Emulator:
    suite = backports()
    archive = Archive(evaluation.store, mirror, refresh)

    def tree(package: str) -> Path:
        return evaluation.entry(package_step(archive, package, suite, host().debian)).path / TREE

    path = tree(arch.backports_qemu) / "usr/bin" / arch.qemu
    firmware = tree(FIRMWARE) / FIRMWARE_PLACE
    version = _ask(evaluation.runtime, path)
    if not _since(version, arch.tcg_forgets_since):
        raise UserError(f"that of {suite} is {version}")
    return Emulator(path, version, f"from {suite}: {need}", firmware)


def backports() -> str:
    """Return the suite with newer packages for this host's release of Debian; raises UserError on another system."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if release.get("ID") != "debian" or not (name := release.get("VERSION_CODENAME")):
        raise UserError("this host is not a release of Debian, whose backports have one", hint="install a newer QEMU")
    return f"{name}-backports"
