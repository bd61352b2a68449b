"""What a check is given: a guest as it was built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from guestforge.arch import Arch
from guestforge.project.options import Artifact

# Seconds that one check may take before the guest counts as hung; nothing healthy comes near them.
DEFAULT_TIMEOUT = {"tcg": 60.0, "kvm": 20.0}


@dataclass(frozen=True, slots=True)
class GuestArtifacts:
    """A built guest: its files and the machine that its recipe asks for.

    `kernel_release` is what `make kernelrelease` said: the console must name that kernel. `probe` is the static
    program that is run in containers on the storage under test. `own_agent`: the agent is ours, of which every storage
    is asked; another one is judged by those that it has drivers for. `digests` has the SHA-256 of kernel, initrd and
    image by the names of their files, of what is known of them.
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
    digests: Mapping[str, str] = field(default_factory=dict)

    def booted(self, artifact: Artifact) -> dict[str, str]:
        """Return the digests of the files that are booted with an artifact, by their names."""
        files = (self.kernel, {"initrd": self.initrd, "image": self.image}[artifact])
        names = {file.name for file in files if file}
        return {name: digest for name, digest in self.digests.items() if name in names}
