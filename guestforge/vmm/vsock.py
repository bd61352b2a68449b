"""Which vsock device a machine gets, and how the host reaches the guest's ports through it."""

import errno
import fcntl
import os
import secrets
import socket
import struct
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from guestforge.agent.transport import Dial, GiveUp, hybrid_connect, vsock_connect
from guestforge.vmm.plan import FIRST_GUEST_CID, LAST_GUEST_CID, Sockets, Vsock

DEVICE: Final = Path("/dev/vhost-vsock")
VHOST_VSOCK_SET_GUEST_CID: Final = 0x4008AF60  # _IOW(VHOST_VIRTIO, 0x60, __u64), include/uapi/linux/vhost.h
ATTEMPTS: Final = 16  # random CIDs that we try; two machines of 2^32 hardly ever meet


@dataclass(frozen=True, slots=True)
class VsockChoice:
    """A machine's vsock device, and why that one."""

    vsock: Vsock
    reason: str

    def describe(self) -> str:
        """Return which device it is and why, for a report."""
        names = {"builtin": "guestforge vhost-user-vsock", "kernel": "kernel vhost-vsock"}
        return f"{names[self.vsock.kind]} ({self.reason})"


def choose_vsock(device: Path = DEVICE) -> VsockChoice:
    """Return the kernel's device where it can be used and gives us a CID, else our own."""
    try:
        return VsockChoice(Vsock("kernel", _free_cid(device)), f"{device} is usable")
    except FileNotFoundError:
        reason = f"no {device}"
    except OSError as e:
        reason = f"{device}: {e.strerror}"
    return VsockChoice(Vsock("builtin"), reason)


def vsock_argv(vsock: Vsock, sockets: Sockets) -> list[str]:
    """Return the command line of our own device."""
    module = [sys.executable, "-m", "guestforge.vhost.vsock"]
    places = ["--socket", str(sockets.vhost_vsock), "--uds-path", str(sockets.vsock)]
    return [*module, *places, "--guest-cid", str(vsock.cid)]


def dial(vsock: Vsock, sockets: Sockets, port: int) -> Dial:
    """Return what connects to a port of the guest."""
    if vsock.kind == "kernel":
        return partial(vsock_connect, vsock.cid, port)
    return partial(hybrid_connect, sockets.vsock, port)


def connect(
    vsock: Vsock, sockets: Sockets, port: int, *, timeout: float, give_up: GiveUp | None = None
) -> socket.socket:
    """Connect to a port of the guest; `timeout` in seconds. Raises ConnectError."""
    return dial(vsock, sockets, port)(timeout=timeout, give_up=give_up)


def _free_cid(device: Path) -> int:
    """Return a CID that no other machine on this host has; raises OSError if the device gives none."""
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(ATTEMPTS - 1):
            try:
                return _claim(descriptor)
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise
        return _claim(descriptor)
    finally:
        os.close(descriptor)  # gives it back; QEMU takes it in a moment, and says so if somebody was faster


def _claim(descriptor: int) -> int:
    # the first ones are what people type by hand
    cid = secrets.choice(range(FIRST_GUEST_CID + 1000, LAST_GUEST_CID))
    fcntl.ioctl(descriptor, VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
    return cid
