"""docs/figures.md: a static head, and one section for each command that measures. All is pure but `publish`, `write`.

A command replaces its own section; the head is written anew each time.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from guestforge.core.files import atomic_file
from guestforge.core.progress import say
from guestforge.project.layout import CHECKOUT

FIGURES: Final = CHECKOUT / "docs" / "figures.md"

Unit = Literal["ratio", "seconds", "bytes", "KiB", "instructions"]
Key = Literal["matrix", "build", "boot", "agent", "storage", "tests"]

HEAD: Final = """\
# Figures

Written by `./invoke bench.matrix`, `bench.build`, `bench.boot`, `bench.agent`, `bench.storage` and `bench.tests`, each
its own section; nothing here is written by hand. [compressions.md](compressions.md) compares what kernels and initrds
can be packed with. Run them on a machine that does nothing else: `bench.matrix` takes two kernel builds for each
architecture, about an hour on two processors for all four, and 4 GB below the cache directory while it runs;
`bench.build` takes as many and a dozen small ones for each (`--arch`), about half an hour; `bench.tests` takes an hour
and twenty minutes; the others take a few minutes and reuse what has been built.

## What the figures of the matrix mean

- **From nothing**: the wall time of one `./invoke build` for all architectures with nothing in the store but fetched
  sources, its boot checks included, divided by that of the same kernels built by plain make, one after the other.
  Plain make is what a person would run by hand to get from the same configuration to the same kernel: `make O=...
  olddefconfig`, then `make -jN` with the bootable target, with the same tree, variables and environment, without a
  compiler cache. Half of the makes run before the build and half after it, so that a machine whose speed drifts slows
  both. The command fails unless all kernels are the same as make's, byte for byte.
- **Nothing changed**: the wall time of the same command again, from the start of the shell script to its end.
- **Check of initrd and image**: the wall time of `./invoke check`, which boots as many guests at once as the host has
  processors.

## What the figures of builds mean

- **Kernel from nothing**: the wall time of `./invoke kernel` with an empty workspace, its start-up, configuration,
  verification and copying included, divided by that of plain make, as above. Both builds take turns of a few seconds,
  one stopped while the other runs, so that a machine whose speed changes slows both; the processor time of both is
  given beside. The command fails unless both kernels are the same, byte for byte.
- **One option changed**: the wall time of `./invoke kernel` with one option of one fragment changed, in a workspace
  that holds a whole build, divided by `olddefconfig` and make in plain make's directory with the same changed
  configuration. The option is changed and restored in turn, and both builds take turns as above; the ratio is that of
  the medians.
- **Nothing changed**: the wall time of a whole `./invoke build`, from the start of the shell script to its end.
- **Check alone**: the wall time of `./invoke check --jobs 1`, which boots one guest after the other, less what its
  reports say the boots took (`phases.done`).
- **Peak memory**: the largest sum of the resident memory of all processes below `./invoke`, sampled every half second
  while the kernel and then all the rest is built and checked, the guests and their storages included. Pages that
  processes share are counted once for each, so it is an upper bound.

## What the figures of boots mean

- **Agent ready**: from before QEMU and the programs behind its devices are started until the agent has answered
  Health.Check with SERVING, under TCG. initrd and image are booted in turn.
- **Guest instructions**: what QEMU counts with `-icount shift=0` from reset, firmware included, until the agent has
  written on the console that it is ready. It does not depend on the speed of the host. The guest is halted for the
  count; afterwards it goes on, and the boot counts only if the agent then answers over vsock, so the vhost-user device
  works under icount too.
- **Guest memory used**: what /proc/meminfo in the guest says is neither available to a new program nor lies free in
  the processors' own lists, as soon as the agent has answered.
- **QEMU's memory**: resident (rss), and with shared pages divided by those who share them (pss), at the same moment.
- **Sizes** are those of the files.

## What the figures of the agent mean

All in one guest booted from the initrd, under TCG. The agent's memory is what it says itself of its resident pages,
once a sandbox has been created and again beside 101 containers with a process each. Seconds are those of the host from
a request on: until ExecProcess has answered (the process runs), until WaitProcess has told its exit code, and until
CreateContainer and StartContainer have answered.

## What the figures of storages mean

A program in a container writes 64 MiB in blocks of 1 MiB and syncs them, reads them back past the guest's page cache,
reads 2,048 blocks of 4 KiB at random, and makes, looks at and removes 1,000 files; twice on each storage of a machine
in turn, on three machines with each virtio-fs server in turn, under TCG. A ratio is a speed: the median of virtio-blk's
seconds divided by that of the storage's. **Memory of our server** is the most that the process of the virtio-fs device
has after all that work, the guest's memory not counted.

## What the figures of the tests mean

The wall time of `./invoke test` in a clone of this checkout that has a cache directory of its own: from nothing, with
the virtual environment and all sources to be fetched, but with the system's packages installed; and once more, when
the store has what the first run built. Beside each is what its stages took and how many tests passed. The command
fails where a test does.
"""
NOT_YET: Final = "Not measured yet.\n"
TITLES: Final[Mapping[Key, str]] = {
    "matrix": "The matrix",
    "build": "Builds",
    "boot": "Boots",
    "agent": "The agent",
    "storage": "Storages",
    "tests": "The tests",
}

# bytes are written in powers of ten, as the aims of files are; memory in those of two, as the kernel counts it
_FORMATS: Final[Mapping[Unit, Callable[[float], str]]] = {
    "ratio": lambda value: f"{value:.3f}",
    "seconds": lambda value: f"{value:.2f} s",
    "bytes": lambda value: f"{value / 1e6:.2f} MB",
    "KiB": lambda value: f"{value / 1024:.1f} MiB",
    "instructions": lambda value: f"{value / 1e6:,.1f} million",
}


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should be: at most `limit`, below it where `strict`, at least it where `least`."""

    limit: float
    strict: bool = False
    least: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is what was aimed at."""
        if self.least:
            return value >= self.limit
        return value < self.limit if self.strict else value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `note` says what it comes from (medians, spread)."""

    name: str
    value: float
    unit: Unit
    aim: Aim | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The figures of one architecture (or of all), and what they were measured with."""

    title: str
    facts: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """What one command measured; `date` is an ISO date with the time."""

    key: Key
    date: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


def render(section: Section) -> str:
    """Return a section's text."""
    parts = [f"## {TITLES[section.key]}", "", f"Measured on {section.date} by `./invoke bench.{section.key}`.", ""]
    parts += _listed(section.facts)
    for table in section.tables:
        parts += [f"### {table.title}", "", *_listed(table.facts)]
        parts += ["| figure | value | aim | met | measured |", "| --- | --- | --- | --- | --- |"]
        parts += [_row(figure) for figure in table.figures] + [""]
    return "\n".join(parts)


def missed(section: Section) -> list[str]:
    """Return a line for each figure that is not what was aimed at."""
    return [
        f"{table.title}: {figure.name}: {formatted(figure.value, figure.unit)}, aim {_aim(figure)}"
        for table in section.tables
        for figure in table.figures
        if figure.aim and not figure.aim.met(figure.value)
    ]


def formatted(value: float, unit: Unit) -> str:
    """Return a value as the page shows it."""
    return _FORMATS[unit](value)


def spread(values: list[float], unit: Unit) -> str:
    """Return from where to where values go, and how many there are."""
    low, high = formatted(min(values), unit), formatted(max(values), unit)
    return f"median of {len(values)}, {low} to {high}"


def page(old: str, section: Section) -> str:
    """Return the whole page with a section in it, the others as they are in the old page."""
    texts = {key: _found(old, key) or f"## {title}\n\n{NOT_YET}" for key, title in TITLES.items()}
    texts[section.key] = render(section)
    marked = (f"{_mark('begin', key)}\n{text.rstrip()}\n\n{_mark('end', key)}\n" for key, text in texts.items())
    return "\n".join((HEAD, *marked))


def publish(section: Section) -> None:
    """Put a section into the page, and say which of its figures are not what was aimed at."""
    write(section)
    for line in missed(section):
        say(f"not met: {line}")


def write(section: Section, path: Path = FIGURES) -> None:
    """Put a section into the page; the page is the old one or the whole new one at any moment."""
    old = path.read_text() if path.is_file() else ""
    with atomic_file(path, "w") as file:
        file.write(page(old, section))


def _mark(where: str, key: str) -> str:
    return f"<!-- {where} {key} -->"


def _found(old: str, key: str) -> str | None:
    pattern = f"^{re.escape(_mark('begin', key))}\n(.*?)^{re.escape(_mark('end', key))}$"
    match = re.search(pattern, old, re.MULTILINE | re.DOTALL)
    return match[1] if match else None


def _listed(facts: tuple[tuple[str, str], ...]) -> list[str]:
    return [*(f"- {name}: {value}" for name, value in facts), ""] if facts else []


def _row(figure: Figure) -> str:
    met = ("yes" if figure.aim.met(figure.value) else "**no**") if figure.aim else ""
    cells = (figure.name, formatted(figure.value, figure.unit), _aim(figure), met, figure.note)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _aim(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    words = "at least" if figure.aim.least else "under" if figure.aim.strict else "at most"
    return f"{words} {formatted(figure.aim.limit, figure.unit)}"
