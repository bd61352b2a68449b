"""Which compiler and linker a kernel is built with. Their versions are inputs of the step, so they must cost nothing
to know: what a tool said of itself is kept until the tool's file changes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.core.errors import UserError
from guestforge.core.files import atomic_file
from guestforge.core.need import Need
from guestforge.core.runtime import Runtime

MEMORY = "tools.json"  # below the cache
MAX_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler and a linker, by the first line of what they say of their version."""

    compiler: str
    linker: str


# What Kbuild packs the bootable file with; it takes gzip too, which every Debian has.
PACKERS: Final = (("lz4", "lz4"), ("zstd", "zstd"), ("xz-utils", "xz"))


def kernel_needs(arch: Arch) -> tuple[Need, ...]:
    """Return what compiling a kernel of an architecture needs.

    https://docs.kernel.org/process/changes.html has the kernel's own list; ours is what its build calls with our
    fragments.
    """
    return (
        *_compilers(arch),
        Need("make", tool="make"),
        Need("gcc", tool="gcc"),  # for the programs that the build runs here
        Need("libc6-dev", file="/usr/include/stdio.h"),  # gcc only recommends it
        Need("flex", tool="flex"),
        Need("bison", tool="bison"),
        Need("bc", tool="bc"),
        Need("perl", tool="perl"),
        Need("libelf-dev", file="/usr/include/gelf.h"),  # objtool
        *(Need(package, tool=tool) for package, tool in PACKERS if arch.kernel_packings),
    )


def _compilers(arch: Arch) -> tuple[Need, Need]:
    """Return compiler and linker."""
    compiler, linker = ("gcc", "binutils") if arch.native else (arch.debian_compiler,) * 2
    return Need(compiler, tool=f"{arch.cross_prefix}gcc"), Need(linker, tool=f"{arch.cross_prefix}ld")


def identify(cache: Path, arch: Arch, runtime: Runtime) -> Toolchain:
    """Return the toolchain of an architecture; raises UserError with the package for a program that is missing."""
    for need in kernel_needs(arch):
        if not runtime.meets(need):
            raise UserError(f"{need.name} is not installed", hint=f"apt-get install {need.package}")
    memory = _Memory(cache / MEMORY, runtime)
    compiler, linker = (memory.version(need) for need in _compilers(arch))
    return Toolchain(compiler, linker)


class _Memory:
    """Versions of tools, each under its runtime and its file's path, time and size."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        self._path = path
        self._runtime = runtime
        try:
            known = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            known = {}
        self._known: dict[str, str] = known if isinstance(known, dict) else {}

    def version(self, need: Need) -> str:
        tool = self._runtime.find_tool(need.tool)
        assert tool is not None, need  # it is met
        real = tool.resolve()
        facts = real.stat()
        key = f"{self._runtime.name} {real} {facts.st_mtime_ns} {facts.st_size}"
        version = self._known.get(key)
        if not isinstance(version, str):
            version = self._runtime.run([tool, "--version"], error=UserError).output.partition("\n")[0]
            self._remember(key, version)
        return version

    def _remember(self, key: str, version: str) -> None:
        recent = list(self._known.items())[-MAX_REMEMBERED:]
        self._known = {**dict(recent), key: version}
        with atomic_file(self._path, "w") as file:
            json.dump(self._known, file, indent=1)
