"""QEMU's arguments, from a plan: a pure function, with a golden file for each architecture in tests/golden/vmm/."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.vmm.plan import (
    ConsoleKind,
    Disk,
    MachinePlan,
    Network,
    Share,
    ShareDevice,
    Sockets,
    Vsock,
    boots_under_tcg,
    kernel_cmdline,
)

# Disks get fixed places, so that a runtime's address of one (a PCI slot, a CCW device number) is known beforehand.
# QEMU fills the other devices in from the lowest free slot up; slots below 8 are left to them.
FIRST_DISK_SLOT: Final = 0x10

# How each virtio bus puts a device at a fixed place, and how the guest then names that place.
_PLACES: Final[dict[str, tuple[str, str]]] = {
    "pci": ("addr={slot:#x}", "{slot:02x}"),
    "ccw": ("devno=fe.0.{slot:04x}", "0.0.{slot:04x}"),
}

# A guest's request has at most as many pages as the queue has room for, so that this is what lets it read and write
# 1 MiB in one. It is QEMU's limit; the default of 128 stops at half of that.
FS_QUEUE_SIZE: Final = 1024

_CONSOLES: Final[dict[ConsoleKind, tuple[str, tuple[str, ...]]]] = {
    "log": ("", ()),
    # QEMU finds its keys in what comes from us, and puts its monitor in the console's place
    "terminal": (",mux=on", ("-mon", "chardev=console,mode=readline")),
}


def qemu_argv(
    plan: MachinePlan, sockets: Sockets, program: Sequence[str] = (), become: Sequence[str] = ()
) -> list[str]:
    """Return the command line that starts a machine.

    `program` is its first words, by default the architecture's QEMU on PATH; `become` is the option that names the user
    that QEMU becomes before it serves the guest.
    """
    words = [*(program or (plan.arch.qemu,)), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += _machine(plan)
    words += _rights(become)
    words += _boot(plan)
    mux, monitor = _CONSOLES[plan.console]
    words += ["-chardev", f"pipe,id=console,path={quoted(sockets.console)}{mux}", *monitor]
    words += plan.arch.console_device
    words += ["-chardev", f"socket,id=qmp,path={quoted(sockets.qmp)},server=off", "-mon", "chardev=qmp,mode=control"]
    words += ["-device", f"virtio-rng-{plan.arch.virtio_bus}"]
    for index, disk in enumerate(plan.disks):
        words += _disk(plan.arch, index, disk)
    for index, share in enumerate(plan.shares):
        words += _SHARES[share.device](plan.arch, index, share, sockets)
    if plan.vsock:
        words += _vsock(plan.arch, plan.vsock, sockets)
    if plan.network:
        words += _network(plan.arch, plan.network)
    return [*words, *plan.extra]


def disk_address(arch: Arch, index: int) -> str:
    """Return how a runtime names the disk at `index` to the agent: a PCI slot in hex (`10`), or a CCW id (`0.0.0010`).

    Those are the sources of the agent's storage drivers blk and blk-ccw.
    """
    return _PLACES[arch.virtio_bus][1].format(slot=FIRST_DISK_SLOT + index)


def quoted(value: str | os.PathLike[str]) -> str:
    """Return a value as QEMU's `key=value,...` options take it: a comma is written twice."""
    return os.fspath(value).replace(",", ",,")


def _machine(plan: MachinePlan) -> Iterator[str]:
    cpu = plan.arch.cpu_kvm if plan.accelerator == "kvm" else plan.arch.cpu_tcg
    # vhost-user devices are other processes: the guest's memory must be a descriptor that they can map, and shared
    yield from ("-object", f"memory-backend-memfd,id=ram,size={plan.memory_mib}M,share=on")
    options, firmware = (
        (plan.arch.machine_options_tcg, plan.arch.firmware_args_tcg) if boots_under_tcg(plan) else ("", ())
    )
    yield from ("-machine", f"{plan.arch.machine}{options},memory-backend=ram", *firmware)
    yield from ("-accel", plan.accelerator)
    yield from ("-cpu", cpu)
    yield from ("-smp", str(plan.cpus))
    yield from ("-m", f"{plan.memory_mib}M")
    if plan.icount:
        yield from ("-icount", "shift=0")


def _rights(become: Sequence[str]) -> Iterator[str]:
    # a guest that breaks out of QEMU may start nothing; vhost-user back ends are started by us, not by QEMU.
    # `elevateprivileges=deny` would forbid the calls by which QEMU becomes another user; after them it has no right to.
    elevate = "" if become else ",elevateprivileges=deny"
    yield from ("-sandbox", f"on,obsolete=deny{elevate},spawn=deny")
    yield from become


def _boot(plan: MachinePlan) -> Iterator[str]:
    if plan.kernel is None:
        return
    yield from ("-kernel", os.fspath(plan.kernel))
    if plan.initrd:
        yield from ("-initrd", os.fspath(plan.initrd))
    yield from ("-append", kernel_cmdline(plan))


def _disk(arch: Arch, index: int, disk: Disk) -> Iterator[str]:
    place = _PLACES[arch.virtio_bus][0].format(slot=FIRST_DISK_SLOT + index)
    serial = f",serial={disk.serial}" if disk.serial else ""
    # the host's page cache, without a flush of its own for every write; the guest's flushes reach the disk.
    # Nobody else may open the file meanwhile: `locking` makes QEMU refuse a disk that another machine has.
    options = "cache.direct=off,cache.no-flush=off,aio=threads,locking=auto"
    yield "-blockdev"
    yield f"driver=file,node-name=file{index},filename={quoted(disk.path)},read-only={_on(disk.read_only)},{options}"
    yield "-blockdev"
    yield f"driver=raw,node-name=disk{index},file=file{index},read-only={_on(disk.read_only)}"
    yield "-device"
    yield f"virtio-blk-{arch.virtio_bus},drive=disk{index},{place}{serial}"


def _virtio_fs(arch: Arch, index: int, share: Share, sockets: Sockets) -> Iterator[str]:
    yield from ("-chardev", f"socket,id=fs{index},path={quoted(sockets.share(index))}")
    device = f"vhost-user-fs-{arch.virtio_bus},chardev=fs{index},tag={quoted(share.tag)},queue-size={FS_QUEUE_SIZE}"
    yield from ("-device", device)


def _virtio_9p(arch: Arch, index: int, share: Share, _sockets: Sockets) -> Iterator[str]:
    # `none` keeps owners where we may, and goes on where we may not; remap: an inode's number may be there twice, where
    # the directory has other file systems below it
    options = "security_model=none,multidevs=remap"
    yield from ("-fsdev", f"local,id=fs{index},path={quoted(share.directory)},{options}")
    yield from ("-device", f"virtio-9p-{arch.virtio_bus},fsdev=fs{index},mount_tag={quoted(share.tag)}")


_SHARES: Final[dict[ShareDevice, Callable[[Arch, int, Share, Sockets], Iterator[str]]]] = {
    "virtio-fs": _virtio_fs,
    "virtio-9p": _virtio_9p,
}


def _vsock(arch: Arch, vsock: Vsock, sockets: Sockets) -> Iterator[str]:
    if vsock.kind == "kernel":
        yield from ("-device", f"vhost-vsock-{arch.virtio_bus},guest-cid={vsock.cid}")
        return
    yield from ("-chardev", f"socket,id=vsock,path={quoted(sockets.vhost_vsock)}")
    yield from ("-device", f"vhost-user-vsock-{arch.vsock_bus},chardev=vsock")


def _network(arch: Arch, network: Network) -> Iterator[str]:
    no_rom = ",romfile=" if arch.virtio_bus == "pci" else ""  # nobody boots from it
    yield from ("-netdev", "user,id=network")
    yield from ("-device", f"virtio-net-{arch.virtio_bus},netdev=network,mac={network.mac}{no_rom}")


def _on(value: bool) -> str:
    return "on" if value else "off"


def differs_under_tcg(plan: MachinePlan) -> tuple[str, ...]:
    """Return what an emulated machine is given that the same one under KVM, as runtimes have it, is not; by lines."""
    if plan.accelerator != "tcg":
        return ()
    nowhere = Sockets(Path("/"))
    real = replace(plan, accelerator="kvm", icount=False)
    of_real = as_lines(qemu_argv(real, nowhere)).splitlines()
    lines = [line for line in as_lines(qemu_argv(plan, nowhere)).splitlines() if line not in of_real]
    words = set(kernel_cmdline(real).split())
    added = [word for word in kernel_cmdline(plan).split() if word not in words]
    return (*(line for line in lines if not line.startswith("-append")), *(f"-append ... {word}" for word in added))


def as_lines(argv: list[str]) -> str:
    """Return a command line for people and for golden files: an option and its value a line."""
    lines: list[str] = []
    for word in argv:
        if lines and lines[-1].startswith("-") and " " not in lines[-1] and not word.startswith("-"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines) + "\n"
