"""The arguments of make, as pure functions: what is built, with what, and with every accident of time and place pinned.

https://docs.kernel.org/kbuild/reproducible-builds.html and https://docs.kernel.org/kbuild/kbuild.html
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from guestforge.arch import Arch
from guestforge.core.runtime import Runtime

BUILDER = "guestforge"  # the user and the host that the kernel says it was built by
NEXT_CONFIG = ".config.next"  # below the build directory: a configuration in the making

# A tree that lies in somebody's git repository must not take its state into the release name.
ENVIRONMENT: Mapping[str, str] = {"GIT_DIR": "/dev/null"}


@dataclass(frozen=True, slots=True)
class Make:
    """A kernel build: the tree it reads, the directory it writes, its date (seconds since 1970), what runs make.

    `held` are descriptors that make and all that it starts keep open: the directory's lock.
    """

    arch: Arch
    tree: Path
    build: Path
    date: int
    runtime: Runtime
    held: tuple[int, ...] = ()


def configure_argv(make: Make, target: str) -> list[str]:
    """Return the command that makes a configuration with one of Kconfig's targets."""
    return [*_common(make), target]


def configure_environment(request: Path) -> dict[str, str]:
    """Return what makes Kconfig write beside the configuration in use, and begin with `request`'s values.

    The one in use keeps its content and date unless they must change, or make would compile everything again.
    """
    return {**ENVIRONMENT, "KCONFIG_CONFIG": NEXT_CONFIG, "KCONFIG_ALLCONFIG": str(request)}


def build_argv(make: Make) -> list[str]:
    """Return the command that compiles the kernel; how many compilers it starts is its environment's to say."""
    return [*_common(make), make.arch.kernel_target]


def _common(make: Make) -> list[str]:
    # where the build lies on this machine is nobody's business, and would make each machine's kernel another
    prefix_map = f"-ffile-prefix-map={make.build}=. -ffile-prefix-map={make.tree}=."
    variables = {
        "O": str(make.build),
        "ARCH": make.arch.kernel_arch,
        "CROSS_COMPILE": make.arch.cross_prefix,
        "LOCALVERSION": "",  # set, though empty: scripts/setlocalversion then adds no `+`
        "RUSTC": "none",  # one on PATH would be written into the configuration, and no kernel of ours has Rust in it
        "KBUILD_BUILD_USER": BUILDER,
        "KBUILD_BUILD_HOST": BUILDER,
        "KBUILD_BUILD_VERSION": "1",
        "KBUILD_BUILD_TIMESTAMP": time.strftime("%a %b %e %H:%M:%S UTC %Y", time.gmtime(make.date)),
        "KCFLAGS": prefix_map,
        "KAFLAGS": prefix_map,
    }
    return ["make", "--no-print-directory", "-C", str(make.tree), *(f"{k}={v}" for k, v in variables.items())]
