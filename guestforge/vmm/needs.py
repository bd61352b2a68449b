"""What booting a guest takes of the host."""

import os
import platform
import re

from guestforge.arch import Arch
from guestforge.core.need import Need
from guestforge.vmm.virtiofsd import PLACES

SECCOMP = Need("libseccomp2", file="/usr/lib/*/libseccomp.so.2:/lib/*/libseccomp.so.2")  # our devices' system calls


def boot_needs(arch: Arch) -> tuple[Need, ...]:
    """Return what booting a guest of an architecture, with any device, takes.

    The firmware of our machines comes with what the emulator's package depends on; no machine has a network card,
    whose ROM would be another package.
    """
    return (
        Need(arch.debian_qemu, tool=arch.qemu),
        Need(_virtiofsd_package(), tool="virtiofsd", file=os.pathsep.join(map(str, PLACES))),
        SECCOMP,
        Need("util-linux", tool="unshare"),  # a user's virtiofsd has a namespace of its own
    )


def _virtiofsd_package() -> str:
    """Return the package with virtiofsd: QEMU 8 dropped its own, and since then it is a package by itself."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    old = {"debian": 12, "ubuntu": 22}.get(release.get("ID", ""), 0)
    version = re.match("[0-9]+", release.get("VERSION_ID", ""))
    return "qemu-system-common" if version and int(version[0]) <= old else "virtiofsd"
