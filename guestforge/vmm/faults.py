"""What no healthy guest prints on its console: the kernel's own words for what went wrong with it.

A container can put words of its own into the kernel's log: the name of a task, the path of a program. So a line counts
by how its message begins, which is the kernel's text, and not where it begins with a task's name.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["no-memory", "panic", "oops", "lockup", "no-init", "warning", "firmware"]


@dataclass(frozen=True, slots=True)
class _Row:
    kind: Kind
    pattern: re.Pattern[str]


# How a message begins, the more telling first: the first row that matches gives the kind.
_PATTERNS: Final[tuple[tuple[Kind, str], ...]] = (
    # a guest that is too small: the kernel refuses its init memory, or finds none; Go's runtime in init; an initrd that
    # does not fit what the kernel lets a tmpfs have. The panic that follows says none of this.
    ("no-memory", r"__vm_enough_memory: pid: 1,"),
    ("no-memory", r"Out of memory(?:: Killed process| and no killable processes)"),
    ("no-memory", r"Kernel panic - not syncing: .*(?:[Oo]ut of memory|deadlocked on memory|[Nn]o memory|allocate)"),
    ("no-memory", r"fatal error: (?:runtime: )?(?:out of memory|cannot (?:allocate|reserve)|failed to reserve)"),
    ("no-memory", r"Initramfs unpacking failed: write error"),
    # lib/fs of a guest without a root, before the panic that follows: these lines name the cause
    ("no-init", r"(?:Kernel panic - not syncing: )?VFS: (?:Cannot open root device|Unable to mount root fs)"),
    ("no-init", r"(?:Kernel panic - not syncing: )?(?:No working init found|Requested init \S+ failed)"),
    ("no-init", r"Failed to execute /\S+ \(error -\d+\)|Initramfs unpacking failed"),
    ("panic", r"(?:---\[ end )?Kernel panic - not syncing"),
    ("lockup", r"(?:watchdog: ?)?(?:BUG: soft lockup|Watchdog detected hard LOCKUP|CPU \d+ Hard LOCKUP)"),
    ("lockup", r"BUG: workqueue lockup|rcu: \S+ kthread starved for"),
    ("lockup", r"rcu: INFO: \S+ (?:self-detected stall|detected (?:expedited )?stalls?)"),
    ("lockup", r"INFO: task \S+ blocked (?:in I/O wait )?for more than \d+ seconds"),
    ("oops", r"(?:watchdog: ?)?BUG: |kernel BUG at |Oops: |Oops\b|Internal error: |Unable to handle kernel "),
    ("oops", r"[a-z][\w ,-]{2,80}(?::| -) [0-9a-f]{4,16} .*\[#\d+\]"),  # die(): x86 before 6.10, s390
    ("oops", r"Unrecoverable (?:exception|FP|VMX|VSX)"),
    ("warning", r"WARNING: |UBSAN: |INFO: possible recursive locking|INFO: inconsistent lock"),
    # SLOF's, for a kernel that it can't run; before the console is the kernel's
    ("firmware", r" *\( [0-9a-f]{3} \) (?:Program Exception|Data Storage|Instruction Storage)"),
)
TABLE: Final = tuple(_Row(kind, re.compile(pattern)) for kind, pattern in _PATTERNS)

# The time stamp of a message, with CONFIG_PRINTK_CALLER's task or processor. kernel/printk/printk.c
STAMP: Final = re.compile(r"\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
# A line of an agent's log: ours has a time in front, kata-agent's is JSON. What it quotes is anybody's.
_LOGGED: Final = re.compile(r"time=|\{")
TAB: Final = " " * 4  # what a tab has become, which was one character
# What follows a task's name, of at most 15 characters (TASK_COMM_LEN), where a line begins with one: mm/oom_kill.c,
# mm/page_alloc.c, fs/drop_caches.c, show_signal() and its like of the architectures, dump_stack_print_info(). A name
# may have a line break in it, so that a line begins in its middle, or ends with it.
_NAMED: Final = re.compile(
    r".{0,15}(?:$| invoked oom-killer|: page allocation failure"
    r"|\[\d+\]| ?\(\d+\)|\) total-vm:|,pid=\d| (?:Not t|T)ainted)"
)


def classify(line: str) -> Kind | None:
    """Return what a line of the console speaks of, None if it is harmless."""
    said = message(line)
    if said is None or _NAMED.match(said.replace(TAB, "\t")):
        return None
    return next((row.kind for row in TABLE if row.pattern.match(said)), None)


def message(line: str) -> str | None:
    """Return a line's message without its time stamp; None for a line of an agent's log.

    User space may have left an unfinished line before a message. A line without a stamp is one of firmware, of a kernel
    that prints none, or of init.
    """
    if _LOGGED.match(line):
        return None
    stamp = STAMP.search(line)
    return line[stamp.end() :] if stamp else line
