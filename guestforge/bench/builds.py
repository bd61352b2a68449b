"""What was measured of builds, and the figures that come of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from guestforge.arch import Arch
from guestforge.bench.figures import Aim, Figure, formatted, spread
from guestforge.bench.lanes import Cost

STEP_AIM: Final = Aim(1.03)
CHANGE_AIM: Final = Aim(1.1)
SECOND_AIM: Final = Aim(1.0)  # seconds
MEMORY_AIM: Final = Aim(2 * 1024**2, strict=True)  # KiB


@dataclass(frozen=True, slots=True)
class Change:
    """The wall times of the kernel step and of plain make after a change of one option, in pairs."""

    option: str
    objects: int  # that were compiled, the median
    step: list[float]
    make: list[float]
    only_build: list[float]  # of `make`, without its olddefconfig


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured of one architecture; times in seconds."""

    arch: Arch
    release: str
    step: Cost
    make: Cost
    peak_kib: int  # of the whole build
    unchanged: list[float]
    check: list[float]
    changes: list[Change]


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return an architecture's figures."""
    changes = tuple(_change_figure(change) for change in measured.changes)
    return (_step_figure(measured), *changes, *_other_figures(measured))


def _step_figure(measured: Measured) -> Figure:
    ours, make = measured.step, measured.make
    note = (
        f"{formatted(ours.seconds, 'seconds')} / {formatted(make.seconds, 'seconds')}; processor time "
        f"{formatted(ours.processor, 'seconds')} / {formatted(make.processor, 'seconds')}"
    )
    return Figure("kernel from nothing / plain make", ours.seconds / make.seconds, "ratio", STEP_AIM, note)


def _change_figure(change: Change) -> Figure:
    ours, make, only = median(change.step), median(change.make), median(change.only_build)
    note = (
        f"{formatted(ours, 'seconds')} / {formatted(make, 'seconds')}, medians of {len(change.step)}; {change.objects} "
        f"objects compiled; {formatted(ours / only, 'ratio')} of make without its olddefconfig"
    )
    return Figure(f"{change.option} changed / plain make", ours / make, "ratio", CHANGE_AIM, note)


def _other_figures(measured: Measured) -> Iterator[Figure]:
    unchanged, check = measured.unchanged, measured.check
    yield Figure("nothing changed", median(unchanged), "seconds", SECOND_AIM, spread(unchanged, "seconds"))
    yield Figure("check alone, beyond its boots", median(check), "seconds", SECOND_AIM, spread(check, "seconds"))
    yield Figure("peak memory", measured.peak_kib, "KiB", MEMORY_AIM, "sum of all processes")
