"""The storages under test, each with containers on it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import ClassVar

from guestforge.agent.storage import SHARE_POINT, SHARE_TAG
from guestforge.agent.storage import Storage as AgentStorage
from guestforge.arch import Arch
from guestforge.check import fixtures
from guestforge.check.exercise import Step, steps
from guestforge.check.hostview import Ext4Disk, HostView, SharedDirectory
from guestforge.core.runtime import Runtime
from guestforge.rootfs.tree import Tree
from guestforge.vmm.argv import disk_address
from guestforge.vmm.plan import Disk, MachinePlan, Share, ShareDevice
from guestforge.vmm.user import transient_user

NODE_DRIVER = "blk"  # the driver that takes a disk by its node, on every architecture

# Where Kata's runtimes have an agent mount what is not the share.
STORAGE_POINT = "/run/kata-containers/sandbox/storage/"

LISTED = "virtiofs"  # the type whose listings of a large directory are a promise of their own


@dataclass(frozen=True, slots=True)
class Storage(ABC):
    """A storage under test.

    `check` is the name of its check, `driver`, `fstype` and `options` are the agent's words, `place` is where it is on
    the host, `tree` what it holds for the guest to find.
    """

    check: str
    driver: str
    fstype: str
    options: tuple[str, ...]
    mount_point: str
    place: Path
    tree: Tree
    steps: tuple[Step, ...]

    live: ClassVar[bool]  # the host may look while the guest has it in use

    @abstractmethod
    def view(self) -> HostView:
        """Return the host's view of it."""

    @abstractmethod
    def attach(self, plan: MachinePlan) -> tuple[MachinePlan, AgentStorage]:
        """Return the machine with it, and how the agent is told to mount it from where it was put."""


@dataclass(frozen=True, slots=True)
class ShareStorage(Storage):
    """A directory, which a guest finds by its tag."""

    device: ShareDevice
    tag: str

    live = True

    def view(self) -> HostView:
        """Return the host's view of it."""
        return SharedDirectory(self.place)

    def attach(self, plan: MachinePlan) -> tuple[MachinePlan, AgentStorage]:
        """Return the machine with it, and how the agent is told to mount it."""
        share = Share(self.tag, self.place, self.device)
        words = AgentStorage(self.driver, self.tag, self.fstype, self.mount_point, self.options)
        return replace(plan, shares=(*plan.shares, share)), words


@dataclass(frozen=True, slots=True)
class DiskStorage(Storage):
    """A disk file, which the host reads with programs of a runtime once no guest has it in use.

    `by_node`: the agent is told its node in the guest's /dev, and not its place on the bus.
    """

    runtime: Runtime
    by_node: bool

    live = False

    def view(self) -> HostView:
        """Return the host's view of it."""
        return Ext4Disk(self.place, self.runtime)

    def attach(self, plan: MachinePlan) -> tuple[MachinePlan, AgentStorage]:
        """Return the machine with it, and how the agent is told to mount it.

        The kernel names disks in the order of their places on the bus, which is that of the plan: /dev/vda is the
        image's own where one is booted. That it is the right one is proven by what the guest then finds on it.
        """
        index = len(plan.disks)
        source = f"/dev/vd{ascii_lowercase[index]}" if self.by_node else disk_address(plan.arch, index)
        words = AgentStorage(self.driver, source, self.fstype, self.mount_point, self.options)
        return replace(plan, disks=(*plan.disks, Disk(self.place))), words


@dataclass(frozen=True, slots=True)
class _Share:
    """A kind of share: the agent's words for it."""

    device: ShareDevice
    driver: str
    fstype: str
    mount_point: str
    tag: str
    options: tuple[str, ...] = ()


DISK = "virtio-blk"
# Each is the check of the same name, as the disk is.
SHARES: tuple[_Share, ...] = (
    _Share("virtio-fs", "virtio-fs", "virtiofs", SHARE_POINT, SHARE_TAG),
    _Share(
        "virtio-9p",
        "9p",
        "9p",
        f"{STORAGE_POINT}9p",
        "guestforge-9p",
        # as Kata's runtimes mount it; the kernel's own msize, 128 KiB since 5.15, is what QEMU grants
        options=("trans=virtio", "version=9p2000.L", "cache=mmap", "nodev"),
    ),
)


Fill = Callable[[str], tuple[Tree, tuple[Step, ...]]]


def prepare(arch: Arch, probe: Path, scratch: Path, runtime: Runtime, *, by_node: bool = False) -> tuple[Storage, ...]:
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

    storages = prepare_with(arch, fill, scratch, runtime, by_node=by_node)
    served = [one.place for one in storages if isinstance(one, ShareStorage) and one.device == "virtio-9p"]
    _give_away(served)
    return storages


def prepare_with(
    arch: Arch, fill: Fill, scratch: Path, runtime: Runtime, *, disk_mib: int = fixtures.DISK_MIB, by_node: bool = False
) -> tuple[Storage, ...]:
    """Write each storage below a directory and return them; `fill` says by its file system's type what it holds.

    A share is an empty directory until `fill_shares`: it takes a while, in which a machine can boot.
    """
    place, (tree, todo) = scratch / DISK, fill("ext4")
    fixtures.write_disk(tree, place, runtime, size_mib=disk_mib)
    driver = NODE_DRIVER if by_node else arch.block_driver
    disk = DiskStorage(
        check=DISK, driver=driver, fstype="ext4", options=(), mount_point=f"{STORAGE_POINT}disk",
        place=place, tree=tree, steps=todo, runtime=runtime, by_node=by_node,
    )  # fmt: skip
    return (disk, *(_share(kind, fill(kind.fstype), scratch / kind.device) for kind in SHARES))


def _share(kind: _Share, content: tuple[Tree, tuple[Step, ...]], place: Path) -> Storage:
    place.mkdir()
    tree, todo = content
    return ShareStorage(
        check=kind.device, driver=kind.driver, fstype=kind.fstype, options=kind.options, mount_point=kind.mount_point,
        place=place, tree=tree, steps=todo, device=kind.device, tag=kind.tag,
    )  # fmt: skip


def fill_shares(storages: Sequence[Storage]) -> None:
    """Write what the shares hold, which no guest may have mounted yet; it belongs to the owner of the directory."""
    for storage in storages:
        if isinstance(storage, ShareStorage):
            fixtures.write_directory(storage.tree, storage.place)
            fixtures.give_to_owner(storage.place)


def _give_away(directories: Sequence[Path]) -> None:
    """Have directories belong to a user who has nothing else: QEMU serves them as their owner, see vmm/user.py."""
    if user := transient_user():
        for directory in directories:
            os.chown(directory, user.uid, user.gid)
