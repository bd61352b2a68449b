"""The storages under test, each with containers on it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from guestforge.agent.storage import SHARE_POINT, SHARE_TAG
from guestforge.arch import Arch
from guestforge.check import fixtures
from guestforge.check.exercise import Step, steps
from guestforge.check.hostview import Ext4Disk, HostView, SharedDirectory
from guestforge.rootfs.tree import Tree
from guestforge.vmm.plan import ShareDevice
from guestforge.vmm.user import transient_user

NODE_DRIVER = "blk"  # the driver that takes a disk by its node, on every architecture

# Where Kata's runtimes have an agent mount what is not the share.
STORAGE_POINT = "/run/kata-containers/sandbox/storage/"

LISTED = "virtiofs"  # the type whose listings of a large directory are a promise of their own

Device = Literal["virtio-blk"] | ShareDevice


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage under test.

    `check` is the name of its check, `device` what the guest finds it on, `tag` how a guest finds a share, `by_node`
    that the disk is named by its node in the guest's /dev and not by its place on the bus. `driver`, `fstype` and
    `options` are the agent's words, `place` is the directory or disk file on the host, `tree` what it holds for the
    guest to find. `live`: the host may look while the guest has it in use.
    """

    check: str
    device: Device
    tag: str
    driver: str
    fstype: str
    options: tuple[str, ...]
    mount_point: str
    place: Path
    tree: Tree
    steps: tuple[Step, ...]
    live: bool
    by_node: bool = False

    def view(self) -> HostView:
        """Return the host's view of it."""
        return SharedDirectory(self.place) if self.live else Ext4Disk(self.place)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of storage: the agent's words for it. A share has a tag."""

    device: Device
    driver: str | None  # None: what the architecture calls a disk
    fstype: str
    mount_point: str
    tag: str = ""
    options: tuple[str, ...] = ()


# Each is the check of the same name.
KINDS: tuple[_Kind, ...] = (
    _Kind("virtio-blk", None, "ext4", f"{STORAGE_POINT}disk"),
    _Kind("virtio-fs", "virtio-fs", "virtiofs", SHARE_POINT, tag=SHARE_TAG),
    _Kind(
        "virtio-9p",
        "9p",
        "9p",
        f"{STORAGE_POINT}9p",
        tag="guestforge-9p",
        # as Kata's runtimes mount it; the kernel's own msize, 128 KiB since 5.15, is what QEMU grants
        options=("trans=virtio", "version=9p2000.L", "cache=mmap", "nodev"),
    ),
)


Fill = Callable[[str], tuple[Tree, tuple[Step, ...]]]


def prepare(arch: Arch, probe: Path, scratch: Path, *, by_node: bool = False) -> tuple[Storage, ...]:
    """Write each storage below a directory, with a nonce of its own, and return them; `fill_shares` does the rest.

    `by_node`: the disk is named in the one way that every agent takes for a disk which was there before the agent. Ours
    also takes its place on the bus, as runtimes name a disk, and is tested by it; a kata-agent waits for the kernel's
    event of such a place, which has passed by then.
    """

    def fill(fstype: str) -> tuple[Tree, tuple[Step, ...]]:
        nonce = fixtures.new_nonce()
        entries = fixtures.MANY if fstype == LISTED else fixtures.SOME  # each costs a moment in every check
        tree = fixtures.container_tree(nonce, probe, entries)
        return tree, steps(nonce, tree, fstype)

    storages = prepare_with(arch, fill, scratch)
    _give_away([storage.place for storage in storages if storage.device == "virtio-9p"])
    if not by_node:
        return storages
    return tuple(s if s.tag else replace(s, driver=NODE_DRIVER, by_node=True) for s in storages)


def prepare_with(arch: Arch, fill: Fill, scratch: Path, *, disk_mib: int = fixtures.DISK_MIB) -> tuple[Storage, ...]:
    """Write each storage below a directory and return them; `fill` says by its file system's type what it holds.

    A share is an empty directory until `fill_shares`: it takes a while, in which a machine can boot.
    """
    return tuple(_placed(kind, arch, fill, scratch / kind.device, disk_mib) for kind in KINDS)


def fill_shares(storages: Sequence[Storage]) -> None:
    """Write what the shares hold, which no guest may have mounted yet; it belongs to the owner of the directory."""
    for storage in storages:
        if storage.tag:
            fixtures.write_directory(storage.tree, storage.place)
            fixtures.give_to_owner(storage.place)


def _give_away(directories: Sequence[Path]) -> None:
    """Have directories belong to a user who has nothing else: QEMU serves them as their owner, see vmm/user.py."""
    if user := transient_user():
        for directory in directories:
            os.chown(directory, user.uid, user.gid)


def _placed(kind: _Kind, arch: Arch, fill: Fill, place: Path, disk_mib: int) -> Storage:
    tree, todo = fill(kind.fstype)
    if kind.tag:
        place.mkdir()
    else:
        fixtures.write_disk(tree, place, size_mib=disk_mib)
    return Storage(
        check=kind.device,
        device=kind.device,
        tag=kind.tag,
        driver=kind.driver or arch.block_driver,
        fstype=kind.fstype,
        options=kind.options,
        mount_point=kind.mount_point,
        place=place,
        tree=tree,
        steps=todo,
        live=bool(kind.tag),
    )
