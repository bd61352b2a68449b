"""The distribution's virtio-fs server: which one there is, whom it can serve, and how it is started.

There are two: the C one that came with QEMU until 7.2, and the Rust one. Both listen on a socket that we made (--fd):
so QEMU can connect at once, and the C one does not write its pid file to /var/run, where only root may.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from guestforge.arch import Arch, host
from guestforge.core.runtime import HOST, Runtime

Flavour = Literal["C", "Rust"]

# Debian has neither on PATH. The Rust one first: where both are, it is the one that is maintained.
PLACES: Final = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"))
VERSION_TIMEOUT: Final = 10.0  # seconds

# Maps of attributes' names, of one form for both. EOPNOTSUPP for access control lists, which are hidden too;
# what an administrator's rights are needed for is kept under other names, and the host's own is hidden, as our server
# has it (guestforge/vhost/fuse/xattr_names.py). Every other name is as it is.
_NO_LISTS: Final = "/unsupported/all/system.posix_acl_/system.posix_acl_/"
_NAMES: Final = (
    "/ok/all/security.capability/security.capability/"
    "/prefix/all/trusted./user.virtiofs./"
    "/prefix/all/security./user.virtiofs./"
    "/bad/server//trusted./"
    "/bad/server//security./"
    "/bad/client/user.virtiofs.//"
    "/ok/all///"
)

# `virtiofsd version 7.2.22 (Debian ...)` and `virtiofsd 1.13.2`
_VERSION: Final = re.compile(r"virtiofsd (?P<c>version |)(?P<number>[0-9][0-9.]*)")


@dataclass(frozen=True, slots=True)
class Virtiofsd:
    """An installed virtiofsd."""

    path: Path
    flavour: Flavour
    version: str

    @property
    def name(self) -> str:
        """Such as `virtiofsd (C, QEMU 7.2.22)`."""
        return f"virtiofsd ({self.flavour}, {'QEMU ' if self.flavour == 'C' else ''}{self.version})"


def find_virtiofsd(runtime: Runtime = HOST, places: tuple[Path, ...] = PLACES) -> Virtiofsd | None:
    """Return the installed virtiofsd, the first of several; None if there is none that answers."""
    on_path = runtime.find_tool("virtiofsd")
    for path in (*places, *([on_path] if on_path else [])):
        if path.is_file() and os.access(path, os.X_OK):
            status = path.stat()
            if found := _ask(runtime, path, status.st_mtime_ns, status.st_size):
                return found
    return None


def why_not(arch: Arch, on: Arch | None = None) -> str | None:
    """Return why virtiofsd on this host (or on `on`) would serve this guest wrongly; None where it would not.

    FUSE messages travel in the guest's binary interface, and virtiofsd takes them for its own. Another byte order: the
    mount succeeds and nothing after it does. Other open(2) flags: the server opens with flags that mean something else
    (arm64's O_DIRECTORY is x86's O_DIRECT); plain reads and writes may work all the same, as they do for aarch64 on
    x86_64. https://docs.kernel.org/filesystems/fuse.html has the format, asm/fcntl.h of each architecture the flags.
    """
    on = on or host()
    if arch.byte_order != on.byte_order:
        return "byte order differs from the host's"
    if arch.open_flags != on.open_flags:
        return "open flags differ from the host's"
    return None


def virtiofsd_argv(server: Virtiofsd, directory: Path, descriptor: int, *, as_we_are: bool) -> list[str]:
    """Return the command line that serves a directory on a listening socket.

    Both use namespaces to lock themselves into the directory. Where we may not have those as we are, they get a user
    namespace of their own, in which we are root, and only our own files have an owner that they can keep. The Rust one
    makes its own, the C one is given one by unshare(1).
    """
    return [
        *([] if as_we_are else _USER_NAMESPACES[server.flavour]),
        *_ARGUMENTS[server.flavour](server, directory, descriptor),
    ]


def _c(server: Virtiofsd, directory: Path, descriptor: int) -> Iterator[str]:
    # cache=none: what the host writes while the guest runs is there for the guest to see, and the other way round
    escaped = os.fspath(directory).replace("\\", "\\\\").replace(",", "\\,")  # libfuse's option parser
    yield from (os.fspath(server.path), f"--fd={descriptor}", "-o", f"source={escaped}", "-o", "cache=none")
    # Unless told not to, the C one passes access control lists on, which nobody enforces then.
    yield from ("-o", "sandbox=namespace", "-o", f"xattrmap={_NAMES}", "-o", "no_posix_acl")
    yield from ("-o", "announce_submounts")


def _rust(server: Virtiofsd, directory: Path, descriptor: int) -> Iterator[str]:
    yield from (os.fspath(server.path), f"--fd={descriptor}", f"--shared-dir={directory}", "--cache=never")
    yield from ("--sandbox=namespace", "--xattr", f"--xattrmap={_NO_LISTS}{_NAMES}", "--announce-submounts")
    yield "--log-level=warn"


_ARGUMENTS: Final[dict[Flavour, Callable[[Virtiofsd, Path, int], Iterator[str]]]] = {"C": _c, "Rust": _rust}
_USER_NAMESPACES: Final[dict[Flavour, list[str]]] = {"C": ["unshare", "--map-root-user"], "Rust": []}


@lru_cache
def _ask(runtime: Runtime, path: Path, _mtime_ns: int, _size: int) -> Virtiofsd | None:
    """Ask a virtiofsd for its version, once for each file that it is."""
    done = runtime.run([path, "--version"], check=False, timeout=VERSION_TIMEOUT)
    match = _VERSION.search(done.output)
    if done.returncode != 0 or match is None:
        return None
    return Virtiofsd(path, "C" if match["c"] else "Rust", match["number"])
