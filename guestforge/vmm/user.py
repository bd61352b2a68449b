"""Who QEMU is on the host: it opens disks and sockets as whoever started it, and serves the guest as one of no account.

Where we are root, QEMU becomes another user once it has opened everything, and before a guest reaches a device: a
device's work waits for the main thread, which changes the user first. A guest that breaks out of QEMU then owns no
file, has no capability, and cannot get one (no_new_privs comes with QEMU's seccomp filter). Without root there is
nothing to give up.
"""

import contextlib
import os
import pwd
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.capabilities import PROC, bits, effective, id_map
from guestforge.core.run import Process
from guestforge.core.runtime import HOST, Runtime
from guestforge.vmm import lifeline as lifeline_program
from guestforge.vmm.plan import MachinePlan

# What systemd keeps for users that exist while a service runs, https://systemd.io/UIDS-GIDS: nobody owns files there.
# Which one is a matter of chance, so that two machines are seldom one user, who could send signals to the other.
TRANSIENT: Final = range(61184, 65520)

# QEMU itself serves virtio-9p's files: as their owner, or as root with these rights of root's where that is the owner.
SERVES_FILES: Final = ("chown", "dac_override", "fowner", "fsetid", "mknod", "setfcap")


@dataclass(frozen=True, slots=True)
class User:
    """A user and a group of the host, by their numbers."""

    uid: int
    gid: int


def qemu_user(plan: MachinePlan, proc: Path = PROC) -> User | None:
    """Return whom a machine's QEMU shall become; None where it stays who we are.

    It is a transient user, or the one to whom the directories that QEMU serves by virtio-9p belong. QEMU stays who we
    are without the right to become others, and where such a directory is root's. `proc` is our process's in /proc.
    """
    served = [share.directory.stat() for share in plan.shares if share.device == "virtio-9p"]
    if not served:
        return transient_user(proc)
    owners = {User(status.st_uid, status.st_gid) for status in served}
    owner = owners.pop()
    ours = bool(owners) or owner.uid == 0 or not _may_become(proc, owner)
    return None if ours else owner


def transient_user(proc: Path = PROC) -> User | None:
    """Return a user whose number nobody has, None if we may become none."""
    number = secrets.choice(TRANSIENT)
    while _named(number):
        number = secrets.choice(TRANSIENT)
    user = User(number, number)
    return user if _may_become(proc, user) else None


def with_less_rights(
    plan: MachinePlan, command: tuple[str, ...], runtime: Runtime = HOST, proc: Path = PROC
) -> tuple[str, ...]:
    """Return QEMU's first words for a machine in which it stays who we are: behind setpriv(1), if that is root."""
    rights = SERVES_FILES if any(share.device == "virtio-9p" for share in plan.shares) else ()
    setpriv = runtime.find_tool("setpriv") if effective(proc) & bits(["SETPCAP"]) else None
    if setpriv is None:
        return command
    kept = ",".join(["-all", *(f"+{name}" for name in rights)])
    return (str(setpriv), f"--bounding-set={kept}", "--inh-caps=-all", "--no-new-privs", "--", *command)


@contextlib.contextmanager
def lifeline(process: Process, runtime: Runtime = HOST) -> Iterator[None]:
    """End a process that becomes another user should we die before the block is left."""
    descriptor = os.pidfd_open(process.pid)  # it is our child: its id is its own until we have asked how it ended
    try:
        argv = [sys.executable, "-I", "-S", lifeline_program.__file__, str(descriptor)]
        with runtime.spawn(argv, stdin=subprocess.PIPE, pass_fds=(descriptor,), outlives_us=True):
            yield
    finally:
        os.close(descriptor)


def _may_become(proc: Path, user: User) -> bool:
    needed = bits(("SETUID", "SETGID"))
    return (
        effective(proc) & needed == needed
        and _mapped(proc / "uid_map", user.uid)
        and _mapped(proc / "gid_map", user.gid)
    )


def _mapped(table: Path, number: int) -> bool:
    """Whether our user namespace has a user or group of this number, user_namespaces(7)."""
    return any(first <= number < first + count for first, _, count in id_map(table))


def _named(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True
