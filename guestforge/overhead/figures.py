"""Figures of samples: medians and spreads, and what a pod's fixed overhead comes to. Everything here is pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from guestforge.overhead.measure import Sample, State

MIB: Final = 1024  # KiB
SPREAD: Final = "(most - least) / median"
TOTAL: Final = "host"  # all programs together


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all boots of a state."""

    median: float
    least: float
    most: float

    @property
    def spread(self) -> float:
        """How far apart the boots are: (most - least) / median, 0 where all are 0."""
        return (self.most - self.least) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """All boots of one state."""

    state: State
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """What a pod needs at most of one thing, and the state in which that was seen."""

    amount: float
    state: str


@dataclass(frozen=True, slots=True)
class PodFixed:
    """A RuntimeClass's overhead.podFixed in MiB and millicores, and what it was made of.

    `memory` in KiB and `cpu` in seconds a minute are the most that any boot needed, `headroom` are percent on top.
    """

    memory_mib: int
    cpu_millicores: int
    memory: Need
    cpu: Need
    headroom: int


def figure(values: Iterable[float]) -> Figure:
    """Return the figure of some values, of which there must be one."""
    found = list(values)
    return Figure(median(found), min(found), max(found))


def figures(samples: Sequence[Sample]) -> dict[str, Figure]:
    """Return all figures of a state by their names, which have the unit; those of TOTAL are sums over programs."""
    found = {"guest_used_kib": figure(sample.guest_used_kib for sample in samples)}
    for name in samples[0].programs:
        for unit in ("rss_kib", "pss_kib", "cpu_seconds_a_minute"):
            found[f"{name}_{unit}"] = figure(getattr(sample.programs[name], unit) for sample in samples)
    found[f"{TOTAL}_pss_kib"] = figure(map(host_pss_kib, samples))
    found["containers_kib"] = figure(sample.containers_kib for sample in samples)
    found["overhead_kib"] = figure(map(overhead_kib, samples))
    found[f"{TOTAL}_cpu_seconds_a_minute"] = figure(map(host_cpu, samples))
    return found


def host_pss_kib(sample: Sample) -> int:
    """Return the memory of all programs of a machine, each page counted once, in KiB."""
    return sum(program.pss_kib for program in sample.programs.values())


def overhead_kib(sample: Sample) -> int:
    """Return what of that memory is not the containers' own, in KiB: theirs is counted in their own limits."""
    return max(0, host_pss_kib(sample) - sample.containers_kib)


def host_cpu(sample: Sample) -> float:
    """Return the seconds of a processor that all programs of a machine use in an idle minute."""
    return sum(program.cpu_seconds_a_minute for program in sample.programs.values())


def pod_fixed(measured: Sequence[Measured], headroom: int) -> PodFixed:
    """Return the fixed overhead of a pod: the most of any boot of any state, with headroom in percent on top.

    Memory is rounded up to whole MiB, the processor to whole millicores; neither is ever 0, which would be no request.
    """
    memory = _most({each.state.name: max(map(overhead_kib, each.samples)) for each in measured})
    cpu = _most({each.state.name: max(map(host_cpu, each.samples)) for each in measured})
    return PodFixed(
        memory_mib=memory_mib(int(memory.amount), headroom),
        cpu_millicores=millicores(cpu.amount, headroom),
        memory=memory,
        cpu=cpu,
        headroom=headroom,
    )


def memory_mib(kib: int, headroom: int) -> int:
    """Return KiB with headroom in percent as MiB, rounded up."""
    return max(1, -(-kib * (100 + headroom) // (100 * MIB)))


def millicores(seconds_a_minute: float, headroom: int) -> int:
    """Return seconds of a processor in a minute, with headroom in percent, as thousandths of one, rounded up."""
    microseconds = round(seconds_a_minute * 1_000_000)  # whole ones: no rounding up for a binary fraction's sake
    return max(1, -(-microseconds * (100 + headroom) // (100 * 60 * 1000)))


def _most(amounts: Mapping[str, float]) -> Need:
    state = max(amounts, key=lambda name: amounts[name])
    return Need(amounts[state], state)
