"""The storages under test: one an entry of CreateSandbox, a container on each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guestforge.agent.storage import SHARE_POINT
from guestforge.arch import Arch
from guestforge.check import fixtures
from guestforge.check.exercise import Step, steps
from guestforge.check.hostview import Ext4Disk, HostView, SharedDirectory
from guestforge.rootfs.tree import Tree

DISK_POINT = "/run/kata-containers/sandbox/storage/guestforge-disk"


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage under test.

    `check` is the name of its check, `driver` and `fstype` are the agent's words, `place` is the directory or disk
    file on the host. `live`: the host may look while the guest has it in use.
    """

    check: str
    driver: str
    fstype: str
    mount_point: str
    place: Path
    steps: tuple[Step, ...]
    live: bool

    def __hash__(self) -> int:
        return hash(self.check)

    def view(self) -> HostView:
        """Return the host's view of it."""
        return SharedDirectory(self.place) if self.live else Ext4Disk(self.place, self.place.parent)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of storage: the agent's words for it, how the host writes one, and whether it may look at any time."""

    check: str
    fstype: str
    mount_point: str
    write: Callable[[Tree, Path], None]
    live: bool


DISK = _Kind("virtio-blk", "ext4", DISK_POINT, fixtures.write_disk, live=False)
SHARE = _Kind("virtio-fs", "virtiofs", SHARE_POINT, fixtures.write_directory, live=True)


def prepare(arch: Arch, probe: Path, scratch: Path) -> tuple[Storage, ...]:
    """Write each storage below a directory, with a nonce of its own, and return them: the disk and the share."""
    drivers = {DISK: arch.block_driver, SHARE: "virtio-fs"}
    return tuple(_written(kind, driver, probe, scratch / kind.check) for kind, driver in drivers.items())


def _written(kind: _Kind, driver: str, probe: Path, place: Path) -> Storage:
    nonce = fixtures.new_nonce()
    tree = fixtures.container_tree(nonce, probe)
    kind.write(tree, place)
    todo = steps(nonce, tree, kind.fstype)
    return Storage(kind.check, driver, kind.fstype, kind.mount_point, place, todo, kind.live)
