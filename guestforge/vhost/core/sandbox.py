"""What a device's process gives up before it hears a guest: other directories, networks, rights.

It is the second line. The first is the server itself, which opens nothing but what lies beneath the shared directory.
All of it is done with system calls of the C library, in the one thread that there is at the start.
"""

import argparse
import codecs
import contextlib
import ctypes
import errno
import importlib.machinery
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from guestforge.core.capabilities import bits, may_mount
from guestforge.core.errors import UserError
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.seccomp import MODES

# include/uapi/linux/sched.h
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
# include/uapi/linux/mount.h and fs.h
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2
MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4
MOUNT_ATTR_NOEXEC: Final = 8
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_ATIME: Final = 0x70  # all bits that say what becomes of access times
AT_FDCWD: Final = -100
AT_RECURSIVE: Final = 0x8000
SYS_MOUNT_SETATTR: Final = 442  # Linux 5.12; calls that came after 5.0 have one number everywhere
# include/uapi/linux/prctl.h
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

# What giving files the owner, mode and kind that a guest asks for takes. Not among them: SYS_ADMIN (mounts, trusted.*
# attributes), DAC_READ_SEARCH (files by handle, also those outside of the share).
KEPT: Final = bits(("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "MKNOD", "SETFCAP"))
_CAPABILITY_VERSION_3: Final = 0x20080522

# What is loaded late, and from the file system: after the change of root that would be the guest's. A thread that ends
# while Python does loads libgcc_s (pthread_exit); a log line with control characters needs a codec.
_LATE_LIBRARIES: Final = ("libgcc_s.so.1",)
_LATE_CODECS: Final = ("unicode_escape",)

_libc = ctypes.CDLL(None, use_errno=True)


Kind = Literal["namespace", "none"]
KINDS: Final[tuple[Kind, ...]] = ("namespace", "none")
HINT: Final = (
    "start it as root or where user namespaces are allowed; with --sandbox none it serves without, and a process that "
    "a guest takes over has all that its user has"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a device program that say how it is locked in, and how far it trusts its front end."""
    parser.add_argument("--sandbox", choices=KINDS, default=KINDS[0], help="none: serve where there can't be one, too")
    parser.add_argument("--seccomp", choices=MODES, default=MODES[0], help="log: note unlisted system calls, only")
    parser.add_argument(
        "--unsealed-memory", action="store_true", help="take guest memory that can be made shorter, too"
    )


class Sandbox:
    """Locks the process into a directory: `prepare`, open what is needed, `enter`, and hear the guest.

    Where that can't be had (an unprivileged container, a kernel without user namespaces) it is an error: nobody is to
    think that there is a sandbox. Of the kind `none` it is left out, and the log says so; rights are given up all the
    same. `kept` are the capabilities that it keeps, as bits.
    """

    def __init__(
        self,
        directory: Path,
        log: Log,
        kind: Kind = "namespace",
        *,
        read_only: bool = False,
        kept: int = KEPT,
    ) -> None:
        self._directory = directory
        self._log = log
        self._kind = kind
        self._read_only = read_only
        self._kept = kept

    def prepare(self) -> None:
        """Take namespaces of our own, in which the directory is a mount. Paths are still what they were.

        Raises UserError where they are not to be had.
        """
        for library in _LATE_LIBRARIES:
            ctypes.CDLL(library)
        for name in _LATE_CODECS:
            codecs.lookup(name)
        if self._kind == "none":
            self._log.always("no sandbox, as asked for (--sandbox none): root directory and namespaces are the host's")
            return
        with _needed("namespaces of our own"):
            _unshare(os.geteuid(), os.getegid())
            _call("mount", None, b"/", None, MS_REC | MS_SLAVE, None)
            place = os.fsencode(self._directory)
            _call("mount", place, place, None, MS_BIND | MS_REC, None)
        with _needed("a mount without devices, set-user-ID and programs"):
            self._restrict(place)

    def enter(self) -> None:
        """Make the directory the root of all that this process can name, and drop rights. There is no way back.

        Raises UserError where the root can't be changed, OSError where rights can't be dropped.
        """
        sys.stderr.flush()
        if self._kind == "namespace":
            descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
            with _needed("a root directory of our own"):
                self._change_root()
            refuse_doors(descriptors)
        refuse_imports()
        _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        drop_capabilities(self._kept)
        _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody of the same user looks at guests' data in us

    def _restrict(self, place: bytes) -> None:
        """Let nothing in the directory be a device or a program, also for whoever takes this process over.

        It is so in our mount namespace only, and for all that is mounted below. A guest's mknod works as before.
        """
        _set_mount(place, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
        if self._read_only:
            _set_mount(place, MOUNT_ATTR_RDONLY)
            with contextlib.suppress(OSError):  # in a user namespace access times stay as the host has them
                _set_mount(place, MOUNT_ATTR_NOATIME, clear=MOUNT_ATTR_ATIME)

    def _change_root(self) -> None:
        os.chdir(self._directory)
        # the old root is put on top of the new one, pivot_root(2), and taken away
        _call("pivot_root", b".", b".")
        _call("umount2", b".", MNT_DETACH)
        os.chdir("/")


@contextlib.contextmanager
def _needed(what: str) -> Iterator[None]:
    """Make an OSError the reason why there is no service."""
    try:
        yield
    except OSError as error:
        raise UserError(f"no sandbox: {what} can't be had: {error.strerror}", hint=HINT) from None


def refuse_doors(descriptors: Iterable[int]) -> None:
    """Raise UserError for a descriptor of a directory from which `..` leads to another one: out of the sandbox."""
    for number in descriptors:
        try:
            here = os.fstat(number)
            if not stat.S_ISDIR(here.st_mode):
                continue
            above = os.stat("..", dir_fd=number)
        except OSError:  # closed meanwhile, or it leads nowhere
            continue
        if (above.st_dev, above.st_ino) != (here.st_dev, here.st_ino):
            raise UserError(
                f"no sandbox: descriptor {number} is a directory outside of it",
                hint="start the device without open directories, and on Linux 5.12 or newer",
            )


def refuse_imports() -> None:
    """Import nothing from files any more: a module that is looked for in a directory could be the guest's."""
    sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter]
    sys.path.clear()


def drop_capabilities(kept: int) -> None:
    """Give up all capabilities but these (bits), for this thread and those that it starts. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: numbers below 32, then those above
    _call("capget", header, sets)
    sets[0] = sets[1] = sets[1] & kept
    sets[2] = sets[3] = sets[4] = sets[5] = 0
    _call("capset", header, sets)


def _set_mount(place: bytes, attributes: int, *, clear: int = 0) -> None:
    """Set attributes of a mount and of all that are below it. Raises OSError."""
    values = (ctypes.c_uint64 * 4)(attributes, clear, 0, 0)  # struct mount_attr
    _call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, place, AT_RECURSIVE, values, ctypes.sizeof(values))


def _unshare(uid: int, gid: int) -> None:
    """Take our own mounts, network and IPC; without the right to, in a user namespace, in which we are its root."""
    flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC
    if may_mount():
        _call("unshare", flags)
        return
    _call("unshare", flags | CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")  # user_namespaces(7): or no map of groups is taken
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library that returns -1 on error. Raises OSError that names it."""
    if getattr(_libc, name)(*(_argument(value) for value in arguments)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")


def _argument(value: object) -> object:
    # variadic functions such as prctl take longs, where ctypes would pass 32 bits
    return ctypes.c_long(value) if isinstance(value, int) else value
