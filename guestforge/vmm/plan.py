"""What a machine is, as data: the guest that it boots, its devices, and the kernel's command line.

Nothing here touches the host. Where the sockets of a running machine are is decided when it starts (`Sockets`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from guestforge.arch import Arch
from guestforge.core.errors import UserError

AcceleratorName = Literal["tcg", "kvm"]
VsockKind = Literal["builtin", "kernel"]
ConsoleKind = Literal["log", "terminal"]
ShareDevice = Literal["virtio-fs", "virtio-9p"]

# virtio 1.2, 5.2.6.6 (the serial of a block device) and 5.11.4 (the tag of a file system); QEMU's limit for 9p is 31
MAX_SERIAL: Final = 20
MAX_TAGS: Final[dict[ShareDevice, int]] = {"virtio-fs": 36, "virtio-9p": 31}
FIRST_GUEST_CID: Final = 3  # 0 to 2 are the hypervisor, loopback and the host, vsock(7)
LAST_GUEST_CID: Final = 0xFFFF_FFFE
MIN_MEMORY_MIB: Final = 32
MAX_MEMORY_MIB: Final = 512 * 1024  # some emulated processor has 40 bits of address, devices among them
MAX_DISKS: Final = 12  # as many slots as the PCI root bus of every machine has left; see argv.py

_WORD = re.compile(r"[A-Za-z0-9_.-]+")

# What runtimes send to every guest: the agent expects the unified cgroup hierarchy alone. panic=-1 makes a kernel that
# panics reset the machine at once, which ends QEMU.
COMMON_ARGS: Final = ("panic=-1", "cgroup_no_v1=all", "systemd.unified_cgroup_hierarchy=1")

# Under TCG the guest's processor must write each page before a virtio-fs server fills it, see emulator.py.
# https://docs.kernel.org/admin-guide/kernel-parameters.html
CLEAR_PAGES: Final = "init_on_alloc=1"


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw disk file. The guest sees disks as vda, vdb, ... in their order, and their serials in sysfs."""

    path: Path
    read_only: bool = False
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A directory that the guest mounts by a tag: virtio-fs has a server of its own, QEMU itself serves virtio-9p.

    `allow_exposed`: as root it is served even where the host's users can reach what the guest makes, see exposure.py.
    `read_only`: the server, which is our own then, lets the guest change nothing.
    """

    tag: str
    directory: Path
    device: ShareDevice = "virtio-fs"
    allow_exposed: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Vsock:
    """The vsock device: our own (`builtin`) or the host kernel's vhost-vsock (`kernel`). `cid` is the guest's."""

    kind: VsockKind
    cid: int = FIRST_GUEST_CID


@dataclass(frozen=True, slots=True)
class Network:
    """A network interface, known by its address, on a network of QEMU's own that leads to where the host's does.

    https://www.qemu.org/docs/master/system/devices/net.html#using-the-user-mode-network-stack has its addresses. What
    listens on the host's loopback can be reached through it.
    """

    mac: str = "52:54:00:67:66:01"  # locally administered, with QEMU's prefix


@dataclass(frozen=True, slots=True)
class Root:
    """The root file system, where it is not an initrd."""

    device: str = "/dev/vda1"
    fstype: str = "ext4"
    flags: str = "data=ordered,errors=remount-ro"
    read_only: bool = True

    def args(self) -> tuple[str, ...]:
        """Return the kernel's arguments that mount it."""
        flags = (f"rootflags={self.flags}",) if self.flags else ()
        return (f"root={self.device}", f"rootfstype={self.fstype}", *flags, "ro" if self.read_only else "rw")


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """A machine. Making one raises UserError for a value that can't work.

    `kernel` may be None: the machine then stays in its firmware. `memory_mib` is in MiB. `kernel_args` follow all
    others on the command line, `extra` all others of QEMU's arguments. The guest's console goes to `console_log`;
    with `console="terminal"` QEMU finds its keys (Ctrl-A X ends it) in what is typed. `icount` makes TCG count
    instructions, one a nanosecond of the guest's time.
    """

    arch: Arch
    accelerator: AcceleratorName
    kernel: Path | None
    console_log: Path
    initrd: Path | None = None
    root: Root | None = None
    disks: tuple[Disk, ...] = ()
    shares: tuple[Share, ...] = ()
    vsock: Vsock | None = None
    network: Network | None = None
    memory_mib: int = 256
    cpus: int = 1
    kernel_args: tuple[str, ...] = ()
    console: ConsoleKind = "log"
    icount: bool = False
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_processors(self)
        _check_devices(self)
        kernel_cmdline(self)


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where a running machine's sockets are: in a directory of its own, with names that are short."""

    directory: Path

    @property
    def console(self) -> Path:
        """With `.in` and `.out` after it two pipes that we make and QEMU opens."""
        return self.directory / "console"

    @property
    def qmp(self) -> Path:
        """We listen, QEMU connects."""
        return self.directory / "qmp"

    @property
    def vhost_vsock(self) -> Path:
        """Our vsock device listens, QEMU connects."""
        return self.directory / "vhost-vsock"

    @property
    def vsock(self) -> Path:
        """The hybrid socket: our vsock device listens, host programs connect."""
        return self.directory / "vsock"

    def share(self, index: int) -> Path:
        """The virtio-fs server of the share at `index` listens, QEMU connects."""
        return self.directory / f"fs{index}"


def kernel_cmdline(plan: MachinePlan) -> str:
    """Return the kernel's command line; raises UserError when the kernel would cut it off (Arch.cmdline_max bytes)."""
    root = plan.root.args() if plan.root else ()
    clear = (CLEAR_PAGES,) if filled_from_outside(plan) else ()
    emulated = plan.arch.kernel_args_tcg if boots_under_tcg(plan) and plan.cpus == 1 else ()
    arch = (f"console={plan.arch.console}", *plan.arch.kernel_args, *emulated)
    line = " ".join((*arch, *COMMON_ARGS, *clear, *root, *plan.kernel_args))
    limit = plan.arch.cmdline_max
    if len(line.encode()) >= limit:  # the final NUL counts
        raise UserError(
            f"the kernel's command line has {len(line.encode())} bytes; {plan.arch.name} keeps {limit - 1}",
            hint="give fewer kernel arguments",
            excerpt=line,
        )
    if "\n" in line or "\0" in line:
        raise UserError("a kernel argument has a line break or a NUL in it", excerpt=repr(line))
    return line


def boots_under_tcg(plan: MachinePlan) -> bool:
    """Whether a kernel is booted by emulation, and not only firmware."""
    return plan.accelerator == "tcg" and plan.kernel is not None


def filled_from_outside(plan: MachinePlan) -> bool:
    """Whether another process fills memory from which an emulated guest may run code."""
    return plan.accelerator == "tcg" and any(share.device == "virtio-fs" for share in plan.shares)


def _check_processors(plan: MachinePlan) -> None:
    if plan.cpus < 1:
        raise UserError(f"cpus = {plan.cpus}: a machine has at least one")
    if plan.accelerator == "tcg" and plan.cpus > plan.arch.max_cpus_tcg:
        limit = plan.arch.max_cpus_tcg
        raise UserError(
            f"cpus = {plan.cpus}: under TCG {plan.arch.name} takes at most {limit}", hint=f"set cpus to {limit} or less"
        )
    if plan.cpus > plan.arch.max_cpus:
        limit = plan.arch.max_cpus
        raise UserError(f"cpus = {plan.cpus}: a machine of {plan.arch.name} takes at most {limit}")
    if plan.icount and plan.accelerator != "tcg":
        raise UserError("instructions can be counted under TCG alone", hint="--accel tcg")
    if not MIN_MEMORY_MIB <= plan.memory_mib <= MAX_MEMORY_MIB:
        raise UserError(f"memory = {plan.memory_mib} MiB: it takes {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}")
    if plan.memory_mib % plan.arch.memory_step_mib:
        step = plan.arch.memory_step_mib
        raise UserError(f"memory = {plan.memory_mib} MiB: a machine of {plan.arch.name} takes multiples of {step} MiB")


def _check_devices(plan: MachinePlan) -> None:
    if len(plan.disks) > MAX_DISKS:
        raise UserError(f"{len(plan.disks)} disks: a machine takes at most {MAX_DISKS}")
    for disk in plan.disks:
        if disk.serial:
            _check_word("serial", disk.serial, MAX_SERIAL)
    tags = [share.tag for share in plan.shares]
    for share in plan.shares:
        _check_word("tag", share.tag, MAX_TAGS[share.device])
    if len(set(tags)) != len(tags):
        raise UserError(f"two shares have the same tag: {', '.join(tags)}")
    if plan.vsock and not FIRST_GUEST_CID <= plan.vsock.cid <= LAST_GUEST_CID:
        raise UserError(f"guest CID {plan.vsock.cid} is not in {FIRST_GUEST_CID} to {LAST_GUEST_CID}")


def _check_word(what: str, word: str, limit: int) -> None:
    if not _WORD.fullmatch(word) or len(word) > limit:
        raise UserError(f"{what} {word!r}: it takes 1 to {limit} letters, digits, dashes, dots and underscores")
