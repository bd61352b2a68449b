"""What figures were measured on and with."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.core.procfs import fields
from guestforge.core.run import find_tool, run
from guestforge.project.options import processors

MEMINFO: Final = Path("/proc/meminfo")
CPUINFO: Final = Path("/proc/cpuinfo")
Facts = tuple[tuple[str, str], ...]


def now() -> str:
    """Return the date and time for a section."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def host_facts() -> Facts:
    """Return what the machine is, and how busy it was before the measurement."""
    memory = int(fields(MEMINFO)["MemTotal"].split()[0]) / 1024**2
    return (
        ("processors", f"{processors()} ({fields(CPUINFO).get('model name') or platform.machine()})"),
        ("memory", f"{memory:.1f} GiB"),
        ("host kernel", platform.release()),
        ("load in the minute before", f"{os.getloadavg()[0]:.1f}"),
    )


def tool_version(name: str) -> str:
    """Return the first line of what a program says of its version."""
    return run([name, "--version"]).output.partition("\n")[0] if find_tool(name) else "not installed"


def compiler(arch: Arch) -> str:
    """Return the version of an architecture's compiler."""
    return tool_version(f"{arch.cross_prefix}gcc")
