"""`./invoke bench.matrix`: all architectures built and checked at once, against plain makes one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from guestforge.arch import Arch
from guestforge.bootable import guest_needs
from guestforge.core.cache import SCRATCH
from guestforge.core.progress import bar, say, step
from guestforge.core.scratch import scratch_directory
from guestforge.core.store import Store
from guestforge.host.packages import ensure
from guestforge.pipeline import Pipeline
from guestforge.project.options import BenchOptions, BuildOptions
from guestforge.vmm.emulator import choose_emulator
from tools.bench.aims import aim
from tools.bench.figures import Aim, Figure, Section, Table, formatted, publish, spread
from tools.bench.host import compiler, host_facts, now
from tools.bench.lanes import Cost, Lane, alone, in_turn, repeated, seconds_of
from tools.bench.scratch_project import PlainMake, ScratchProject, fetch

REPEATS: Final = 5  # builds with nothing changed
CHECKS: Final = 3  # checks of each architecture
NOTHING_AIM: Final = Aim(1.03)
UNCHANGED_AIM: Final = Aim(0.8)  # seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured; times in seconds. `makes` are in the order in which they ran."""

    build: Cost
    makes: Mapping[Arch, Cost]
    unchanged: list[float]
    checks: Mapping[Arch, list[float]]


def run(options: BenchOptions) -> None:
    """Measure the architectures that were asked for, by default those that are proven, and write the section."""
    for arch in options.arches:
        ensure(guest_needs(Pipeline(arch, BuildOptions())))
    facts = host_facts()
    section = Section("matrix", now(), facts, tuple(_tables(_measure(options.arches))))
    publish(section)


def _measure(arches: Sequence[Arch]) -> Measured:
    """Build with the task between two halves of the makes, so that a machine whose speed drifts slows both."""
    user = Store()
    for arch in arches:
        fetch(arch, user)
    with scratch_directory(SCRATCH, user.cache) as scratch:
        project = ScratchProject(scratch, user.cache)
        plain = {arch: PlainMake(project, arch) for arch in arches}
        for make in plain.values():
            make.configure(make.configured())
        half = (len(arches) + 1) // 2
        makes = {arch: _make(project, arch, plain[arch]) for arch in arches[:half]}
        with step("building and checking all from nothing"):
            build = alone(project.invoke("build", *arches), project.log)
        say(f"the task took {build.seconds:.1f} s")
        makes |= {arch: _make(project, arch, plain[arch]) for arch in arches[half:]}
        for make in plain.values():
            make.require_same()
        return Measured(build, makes, _unchanged(project, arches), _checks(project, arches))


def _make(project: ScratchProject, arch: Arch, plain: PlainMake) -> Cost:
    lane = Lane(plain.commands(), project.log)
    with step(f"building the kernel for {arch.name} with plain make"):
        in_turn([lane], turn=float("inf"))
    say(f"plain make took {lane.cost.seconds:.1f} s")
    return lane.cost


def _unchanged(project: ScratchProject, arches: Sequence[Arch]) -> list[float]:
    command = project.invoke("build", *arches)
    return repeated("builds of all with nothing changed", REPEATS, "builds", lambda: seconds_of(command, project.log))


def _checks(project: ScratchProject, arches: Sequence[Arch]) -> dict[Arch, list[float]]:
    """Return what checks took, the architectures in turn."""
    seconds: dict[Arch, list[float]] = {arch: [] for arch in arches}
    with bar("checks", CHECKS * len(arches), "checks") as shown:
        for arch in [*arches] * CHECKS:
            seconds[arch].append(seconds_of(project.invoke("check", arch), project.log))
            shown.update()
    return seconds


def _tables(measured: Measured) -> Iterator[Table]:
    yield Table("all at once", (), tuple(figures(measured)))
    for arch, seconds in measured.checks.items():
        facts = (("compiler", compiler(arch)), ("emulator", choose_emulator(arch).version))
        yield Table(arch.name, facts, (check_figure(arch, seconds),))


def figures(measured: Measured) -> Iterator[Figure]:
    """Yield the figures of all architectures together."""
    makes, build = measured.makes.values(), measured.build
    seconds, processor = (sum(cost.seconds for cost in makes), sum(cost.processor for cost in makes))
    times = f"{formatted(build.seconds, 'seconds')} / {formatted(seconds, 'seconds')}"
    used = f"{formatted(build.processor, 'seconds')} / {formatted(processor, 'seconds')}"
    each = ", ".join(f"{arch.name} {formatted(cost.seconds, 'seconds')}" for arch, cost in measured.makes.items())
    yield Figure(f"from nothing / {len(makes)} plain makes", build.seconds / seconds, "ratio", NOTHING_AIM,
                 f"{times} ({each}); processor time {used}")  # fmt: skip
    yield Figure("nothing changed", median(measured.unchanged), "seconds", UNCHANGED_AIM,
                 spread(measured.unchanged, "seconds"))  # fmt: skip
    yield Figure("peak memory", build.peak_kib, "KiB", None, "sum of all processes")


def check_figure(arch: Arch, seconds: list[float]) -> Figure:
    """Return the figure of an architecture's checks."""
    name = "check of initrd and image"
    return Figure(name, median(seconds), "seconds", aim(arch, name), spread(seconds, "seconds"))
