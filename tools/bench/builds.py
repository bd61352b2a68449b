"""What was measured of builds, and the figures that come of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from guestforge.arch import Arch
from tools.bench.figures import Aim, Figure, formatted, spread
from tools.bench.lanes import Cost

STEP_AIM: Final = Aim(1.03)
CHANGE_AIM: Final = Aim(1.1)
SECOND_AIM: Final = Aim(1.0)  # seconds
MEMORY_AIM: Final = Aim(2 * 1024**2, strict=True)  # KiB


@dataclass(slots=True)
class Change:
    """What the kernel step and plain make took after changes of one option, in pairs, and the objects compiled."""

    option: str
    step: list[Cost] = field(default_factory=list)
    make: list[Cost] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)

    def add(self, step: Cost, make: Cost, objects: int) -> None:
        """Take in one pair."""
        self.step.append(step)
        self.make.append(make)
        self.objects.append(objects)


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
    return _ratio("kernel from nothing / plain make", measured.step, measured.make, STEP_AIM)


def _change_figure(change: Change) -> Figure:
    note = f"; medians of {len(change.step)}, {median(change.objects):g} objects compiled"
    return _ratio(f"{change.option} changed / plain make", _median(change.step), _median(change.make), CHANGE_AIM, note)


def _ratio(name: str, ours: Cost, make: Cost, aim: Aim, note: str = "") -> Figure:
    times = f"{formatted(ours.seconds, 'seconds')} / {formatted(make.seconds, 'seconds')}"
    processor = f"{formatted(ours.processor, 'seconds')} / {formatted(make.processor, 'seconds')}"
    return Figure(name, ours.seconds / make.seconds, "ratio", aim, f"{times}; processor time {processor}{note}")


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        median(cost.seconds for cost in costs), median(cost.processor for cost in costs),
        max(cost.peak_kib for cost in costs),
    )  # fmt: skip


def _other_figures(measured: Measured) -> Iterator[Figure]:
    unchanged, check = measured.unchanged, measured.check
    yield Figure("nothing changed", median(unchanged), "seconds", SECOND_AIM, spread(unchanged, "seconds"))
    yield Figure("check alone, beyond its boots", median(check), "seconds", SECOND_AIM, spread(check, "seconds"))
    yield Figure("peak memory", measured.peak_kib, "KiB", MEMORY_AIM, "sum of all processes")
