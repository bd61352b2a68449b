"""What programs have used of memory and processors, with all that they have started."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from guestforge.core.errors import CheckError, UserError
from guestforge.core.procfs import Memory, fields, memory

PROC: Final = Path("/proc")
# The kernel's name of the clock of a process's processor time, all its threads together, those that have ended too:
# MAKE_PROCESS_CPUCLOCK of include/linux/posix-timers.h, as clock_getcpuclockid(3) makes it.
CPUCLOCK_SCHED: Final = 2
PID_SHIFT: Final = 3


def family(pid: int, proc: Path = PROC) -> tuple[int, ...]:
    """Return a process and all below it: a virtiofsd serves in a child of the process that was started."""
    children: dict[int, list[int]] = {}
    for each in proc.iterdir():
        if each.name.isdigit() and (parent := _parent(each)) is not None:
            children.setdefault(parent, []).append(int(each.name))
    found = [pid]
    for each_pid in found:  # which grows meanwhile
        found += sorted(children.get(each_pid, ()))
    return tuple(found)


def memory_of(pids: Iterable[int], what: str, proc: Path = PROC) -> Memory:
    """Return the memory of processes together; `what` names them in messages.

    Raises UserError where we may not look, CheckError for one that has ended.
    """
    rss = pss = 0
    for pid in pids:
        found = _memory(proc / str(pid), what)
        rss += found.rss_kib
        pss += found.pss_kib
    return Memory(rss, pss)


def cpu_seconds(pids: Iterable[int], what: str) -> float:
    """Return the seconds of a processor that processes have used together. Raises CheckError for one that has ended."""
    try:
        return sum(time.clock_gettime_ns((~pid << PID_SHIFT) | CPUCLOCK_SCHED) for pid in pids) / 1e9
    except OSError as e:
        raise _ended(what) from e


def _parent(process: Path) -> int | None:
    try:
        return int(fields(process / "status")["PPid"])
    except (OSError, KeyError):
        return None  # it has ended meanwhile


def _memory(process: Path, what: str) -> Memory:
    try:
        found = memory(process)
    except PermissionError as e:
        hint = "run this as root: our devices let nobody of the same user look into them"
        raise UserError(f"the memory of {what} can't be read: {e.strerror}", hint=hint) from e
    except OSError as e:
        raise _ended(what) from e
    if found is None:
        raise _ended(what)
    return found


def _ended(what: str) -> CheckError:
    return CheckError(f"{what} ended while it was measured")
