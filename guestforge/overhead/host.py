"""What overhead was measured on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.procfs import fields
from guestforge.project.options import processors

MEMINFO: Final = Path("/proc/meminfo")
CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Host:
    """A host: its processors and their model, its memory, its kernel."""

    processors: int
    model: str
    memory_mib: int
    kernel: str
    page_size: int


def this_host() -> Host:
    """Return the host that we are on."""
    return Host(
        processors=processors(),
        model=fields(CPUINFO).get("model name") or platform.machine(),
        memory_mib=int(fields(MEMINFO)["MemTotal"].split()[0]) // 1024,
        kernel=platform.release(),
        page_size=os.sysconf("SC_PAGE_SIZE"),
    )


def load() -> float:
    """Return how many programs wanted a processor in the last minute, on average."""
    return round(os.getloadavg()[0], 2)
