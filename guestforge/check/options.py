"""What a check is given: the guest as it was built, and what the user chose."""

from dataclasses import dataclass
from pathlib import Path

from guestforge.arch import Arch
from guestforge.check.report import Artifact
from guestforge.vmm.accel import Wanted
from guestforge.vmm.virtiofs import Wanted as WantedServer

ARTIFACTS: tuple[Artifact, ...] = ("initrd", "image")

# Seconds that one check may take before the guest counts as hung; nothing healthy comes near them.
DEFAULT_TIMEOUT = {"tcg": 60.0, "kvm": 20.0}


@dataclass(frozen=True, slots=True)
class GuestArtifacts:
    """A built guest: its files and the machine that its recipe asks for.

    `kernel_release` is what `make kernelrelease` said: the console must name that kernel. `probe` is the static
    program that is run in containers on the storage under test. `own_agent`: the agent is ours, of which every storage
    is asked; another one is judged by those that it has drivers for.
    """

    arch: Arch
    guest: str
    kernel: Path
    kernel_release: str
    initrd: Path | None  # None where the image alone is booted
    image: Path | None
    probe: Path
    memory_mib: int = 256
    cpus: int = 1
    kernel_args: tuple[str, ...] = ()
    own_agent: bool = True


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What a user chooses for a check.

    `timeout` is the seconds that one check may take (None: DEFAULT_TIMEOUT of the accelerator); `verbose` streams the
    console; `virtio_fs_server` is who serves the share.
    """

    accel: Wanted = "auto"
    timeout: float | None = None
    verbose: bool = False
    virtio_fs_server: WantedServer = "auto"
