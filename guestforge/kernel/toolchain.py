"""Which compiler and linker a kernel is built with. Their versions are inputs of the step, so they must cost nothing
to know: what a tool said of itself is kept until the tool's file changes."""

import json
from dataclasses import dataclass
from pathlib import Path

from guestforge.arch import Arch
from guestforge.errors import UserError
from guestforge.files import atomic_file
from guestforge.run import find_tool, run

MEMORY = "tools.json"  # below the cache
MAX_REMEMBERED = 64

# What a kernel's build calls besides compiler and linker, and the Debian package that has it.
PROGRAMS = {"make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "perl": "perl", "gcc": "gcc"}


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler and a linker, by the first line of what they say of their version."""

    compiler: str
    linker: str


def identify(cache: Path, arch: Arch) -> Toolchain:
    """Return the toolchain of an architecture; raises UserError with the package for a program that is missing."""
    package = "gcc" if arch.native else arch.debian_compiler
    gcc = _require(f"{arch.cross_prefix}gcc", package)
    linker = _require(f"{arch.cross_prefix}ld", "binutils" if arch.native else arch.debian_compiler)
    for program, of_package in PROGRAMS.items():
        _require(program, of_package)
    memory = _Memory(cache / MEMORY)
    return Toolchain(memory.version(gcc), memory.version(linker))


def _require(program: str, package: str) -> Path:
    path = find_tool(program)
    if path is None:
        raise UserError(f"{program} is not installed", hint=f"apt-get install {package}")
    return path


class _Memory:
    """Versions of tools, each under its file's path, time and size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            known = {}
        self._known: dict[str, str] = known if isinstance(known, dict) else {}

    def version(self, tool: Path) -> str:
        real = tool.resolve()
        facts = real.stat()
        key = f"{real} {facts.st_mtime_ns} {facts.st_size}"
        version = self._known.get(key)
        if not isinstance(version, str):
            version = run([tool, "--version"], error=UserError).output.partition("\n")[0]
            self._remember(key, version)
        return version

    def _remember(self, key: str, version: str) -> None:
        recent = list(self._known.items())[-MAX_REMEMBERED:]
        self._known = {**dict(recent), key: version}
        with atomic_file(self._path, "w") as file:
            json.dump(self._known, file, indent=1)
