"""The storages that an agent is asked to mount, in the words of the agent's API."""

from dataclasses import dataclass

from guestforge.agent.proto import agent_pb2

# What Kata's runtimes name the share and its mount point; CopyFile writes only below it.
SHARE_TAG = "kataShared"
SHARE_POINT = "/run/kata-containers/shared/containers/"


@dataclass(frozen=True, slots=True)
class Storage:
    """One storage. `driver` is a name of the agent's (GuestDetails.storage_handlers), `source` what that driver takes.

    `options` are mount options, `driver_options` the driver's own.
    """

    driver: str
    source: str
    fstype: str
    mount_point: str
    options: tuple[str, ...] = ()
    driver_options: tuple[str, ...] = ()

    def message(self) -> agent_pb2.Storage:
        """Return it as it goes over the wire."""
        return agent_pb2.Storage(
            driver=self.driver,
            source=self.source,
            fstype=self.fstype,
            mount_point=self.mount_point,
            options=self.options,
            driver_options=self.driver_options,
        )


def virtio_fs(mount_point: str = SHARE_POINT, *, tag: str = SHARE_TAG, options: tuple[str, ...] = ()) -> Storage:
    """Return a virtio-fs share, found by its tag."""
    return Storage("virtio-fs", tag, "virtiofs", mount_point, options)


def block(
    source: str, mount_point: str, *, fstype: str = "ext4", driver: str = "blk", options: tuple[str, ...] = ()
) -> Storage:
    """Return a virtio disk: `source` is its node (`/dev/vdb`) or its address on the bus that `driver` is for.

    An address is a PCI path (`02/01`) for `blk`, a CCW id (`0.0.0005`) for `blk-ccw`; Arch.block_driver says which. A
    kata-agent takes a disk that was there before it only by its node, and only for `blk`, on every architecture.
    """
    return Storage(driver, source, fstype, mount_point, options)


def overlay(mount_point: str, lower: str, scratch: str) -> tuple[Storage, Storage]:
    """Return a directory that can be written to, and before it the tmpfs at `scratch` in which its changes lie."""
    layers = (f"lowerdir={lower.rstrip('/')}", f"upperdir={scratch}/up", f"workdir={scratch}/work")
    changes = Storage("ephemeral", "tmpfs", "tmpfs", scratch)
    return changes, Storage("overlayfs", "overlay", "overlay", mount_point, layers)
