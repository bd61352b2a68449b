"""What Kata's runtimes are told of a guest: a drop-in, which changes some options of their configuration.

A runtime reads every file of the folder `config.d` beside its configuration, in the order of their names, whatever they
are called: nothing else of ours may ever lie there. runtime-rs follows no link there, and an option that the Go runtime
does not know is an error to it (src/libs/kata-types/src/config/drop_in.rs, src/runtime/pkg/katautils/config.go).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.install.guests import Guest
from guestforge.install.places import Runtime
from guestforge.kernel.dotconfig import Config
from guestforge.kernel.step import KERNEL
from guestforge.project.options import ARTIFACTS, Artifact
from guestforge.release.names import ROOTS

Option = str | bool | list[str]
Options = Mapping[str, Mapping[str, Option]]  # by section

# Kata's own default, which kernel_params of a drop-in takes the place of: cgroups of version 2, asked for in two ways.
# The second is read of Kata's images and its agent; our agent is content with the first.
CGROUPS: Final = ("cgroup_no_v1=all", "systemd.unified_cgroup_hierarchy=1")
SEAL: Final = re.compile(rb"# guestforge install, sha256 of what follows: ([0-9a-f]{64})\n")


def options_for(runtime: Runtime, guest: Guest, directory: Path, booted: Artifact, config: Config) -> Options:
    """Return what a runtime is told of a guest that lies in a directory: which files, and how they are booted.

    `config` is the kernel's.
    """
    hypervisor: dict[str, Option] = {
        "kernel": str(directory / KERNEL),
        **dict.fromkeys(ARTIFACTS, ""),  # both at once are refused
        booted: str(directory / ROOTS[booted]),
        "machine_type": machine_type(guest.arch),
        "firmware": "",  # QEMU starts the kernel itself, as it did in the checks; it has no EFI stub
        "kernel_verity_params": "",  # those would be of another image
        "rootfs_type": "ext4",
        "disable_image_nvdimm": True,  # the image has no DAX header; it was checked as a virtio disk
    }
    if runtime.rootfs_driver:
        hypervisor["vm_rootfs_driver"] = f"virtio-blk-{guest.arch.virtio_bus}"
    if config.get("CONFIG_VIRTIO_MEM") != "y":
        hypervisor["enable_virtio_mem"] = False
    if guest.kernel_args:
        hypervisor["kernel_params"] = " ".join((*(CGROUPS[:1] if guest.own_agent else CGROUPS), *guest.kernel_args))
    agent: dict[str, Option] = {"kernel_modules": []}  # what is named there would be another kernel's
    if guest.own_agent:
        agent["enable_tracing"] = False  # it has none, and the Go runtime would wait for it
    return {"hypervisor.qemu": hypervisor, "agent.kata": agent}


def machine_type(arch: Arch) -> str:
    """Return QEMU's machine as Kata names it, without its properties: those are in an option of their own."""
    return arch.machine.partition(",")[0]


def drop_in(options: Options, guest: Guest) -> bytes:
    """Return a drop-in, which begins with the digest of the rest: so a later run knows it from one that was edited."""
    told = (
        f"# {guest.id}, version {guest.version}: what of Kata's configuration has to fit this guest.\n"
        "# The next `./invoke install --kata` writes this anew. Have options of your own in another file.\n"
    )
    rest = (told + toml(options)).encode()
    return f"# guestforge install, sha256 of what follows: {hashlib.sha256(rest).hexdigest()}\n".encode() + rest


def is_ours(text: bytes) -> bool:
    """Whether a file is a drop-in that we wrote and nobody has changed."""
    found = SEAL.match(text)
    return found is not None and hashlib.sha256(text[found.end() :]).hexdigest().encode() == found[1]


def toml(options: Options) -> str:
    """Return options as TOML: its strings, booleans and lists are written as JSON has them, but for DEL."""
    sections = (
        "".join((f"\n[{name}]\n", *(f"{key} = {_value(value)}\n" for key, value in section.items())))
        for name, section in options.items()
    )
    return "".join(sections)


def _value(value: Option) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
