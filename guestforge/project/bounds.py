"""What a guest's recipe may ask for on one architecture, and of one kernel; the model has what holds for all."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from guestforge.arch import Arch
from guestforge.core.errors import UserError
from guestforge.project.load import OURS, Folders, Location, find, line_of, load_guest
from guestforge.project.models import Guest

MEMORY: Location = ("boot", "memory_mib")
CPUS: Location = ("boot", "cpus")


def load_guest_for(arch: Arch, name: str, recipes: Folders = OURS) -> Guest:
    """Read guests/NAME.toml for an architecture; raises UserError for what is wrong with it or does not fit."""
    guest = load_guest(name, recipes)
    _refuse(misfits(guest, arch), find(Guest, name, recipes))
    return guest


def require_processors(guest: Guest, name: str, config: Mapping[str, str], recipes: Folders = OURS) -> None:
    """Raise UserError when the kernel of a final configuration would leave some of a guest's processors idle."""
    limit = config.get("CONFIG_NR_CPUS", "1" if config.get("CONFIG_SMP") != "y" else "")
    if limit.isdecimal() and guest.boot.cpus > int(limit):
        why = f"{guest.boot.cpus} are more than the {limit} that its kernel uses (CONFIG_NR_CPUS)"
        _refuse([(CPUS, why)], find(Guest, name, recipes))


def misfits(guest: Guest, arch: Arch) -> Iterator[tuple[Location, str]]:
    """Yield what of a guest's recipe no machine of an architecture can be, by its place there, and why."""
    memory, cpus = guest.boot.memory_mib, guest.boot.cpus
    if memory < arch.min_memory_mib:
        yield (
            MEMORY,
            (
                f"{memory} MiB are too little memory for a guest of {arch.name}: its kernel, an unpacked initrd and "
                f"the agent need at least {arch.min_memory_mib}"
            ),
        )
    if memory % arch.memory_step_mib:
        yield MEMORY, f"a machine of {arch.name} has a multiple of {arch.memory_step_mib} MiB, and {memory} is none"
    if cpus > arch.max_cpus:
        yield CPUS, f"a machine of {arch.name} has at most {arch.max_cpus} processors, not {cpus}"


def _refuse(misfits: Iterable[tuple[Location, str]], path: Path) -> None:
    text = ""
    problems = []
    for location, why in misfits:
        text = text or path.read_text()
        line = line_of(text, location)
        place = f"{path}:{line}" if line else str(path)
        problems.append(f"{place}: {'.'.join(map(str, location))}: {why}")
    if problems:
        raise UserError("\n".join(problems), hint="docs/recipes.md has every key")
