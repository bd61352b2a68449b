"""What a process may do beyond an ordinary user: its capabilities, and the users that its user namespace has."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from guestforge.core.procfs import fields

PROC: Final = Path("/proc/self")

# include/uapi/linux/capability.h, without CAP_
NUMBERS: Final[Mapping[str, int]] = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "SYS_ADMIN": 21,
    "MKNOD": 27,
    "SETFCAP": 31,
}
ALL_IDS: Final = (0, 0, 0xFFFF_FFFF)  # the one row of uid_map in the host's own user namespace, user_namespaces(7)


def bits(names: Iterable[str]) -> int:
    """Return capabilities as the kernel has a set of them: a bit each."""
    return sum(1 << NUMBERS[name] for name in names)


def effective(proc: Path = PROC) -> int:
    """Return the capabilities that a process has in effect, as bits; `proc` is its directory in /proc."""
    return int(fields(proc / "status")["CapEff"], 16)


def may_mount(proc: Path = PROC) -> bool:
    """Whether a process may mount, and have namespaces, as it is. Root in a container may not: it is a user there."""
    return bool(effective(proc) & bits(("SYS_ADMIN",)))


def id_map(table: Path) -> list[tuple[int, ...]]:
    """Return the rows of a uid_map or gid_map: first inside, first outside, how many; none if it can't be read."""
    try:
        return [tuple(map(int, line.split())) for line in table.read_text().splitlines()]
    except OSError:
        return []
