"""`./invoke bench.boot`: how long guests take to their agent's readiness, and what they need."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from guestforge.agent.client import AgentClient
from guestforge.agent.metrics import guest_memory, parse_metrics
from guestforge.agent.ready import wait_ready
from guestforge.agent.transport import AGENT_PORT
from guestforge.arch import Arch
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.live import guest_plan
from guestforge.core.errors import CheckError
from guestforge.core.progress import bar
from guestforge.core.scratch import scratch_directory
from guestforge.image.initrd_step import INITRD
from guestforge.kernel.step import KERNEL
from guestforge.pipeline import Pipeline
from guestforge.project.options import ARTIFACTS, Artifact, BenchOptions
from guestforge.rootfs.agent import AGENT
from guestforge.vmm.emulator import choose_emulator
from guestforge.vmm.machine import Machine
from guestforge.vmm.plan import MachinePlan
from guestforge.vmm.vsock import choose_vsock
from tools.bench.aims import aim
from tools.bench.figures import Aim, Figure, Section, Table, formatted, publish, spread
from tools.bench.guests import built
from tools.bench.host import compiler, host_facts, now

BOOTS: Final = 5  # of each artifact, timed
COUNTED: Final = 3  # of each artifact, with instructions counted
LIMIT: Final = 120.0  # seconds that a boot may take
READY: Final = 'msg="agent ready"'  # what the agent writes once it listens (docs/agent.md)

SIZE: Final = Aim(8e6, strict=True)  # bytes, kernel and initrd together
MEMORY: Final = Aim(24 * 1024, strict=True)  # KiB of the guest's
# The aim for sizes is one for kernels that unpack themselves; other architectures boot them as they are linked.
PACKED: Final = "bzImage"


@dataclass(frozen=True, slots=True)
class Boot:
    """One timed boot: seconds to the agent's readiness, and KiB at that moment."""

    seconds: float
    guest_used: int
    guest_total: int
    qemu_rss: int
    qemu_pss: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of files, in bytes."""

    kernel: int
    initrd: int
    agent: int


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured of one architecture; `counted` are the instructions of each boot."""

    arch: Arch
    sizes: Sizes
    boots: dict[Artifact, list[Boot]]
    counted: dict[Artifact, list[int]]


def run(measured: BenchOptions) -> None:
    """Measure the architectures that were asked for, by default those that are proven, and write the section."""
    pipelines = built(measured.arches)  # before the clock runs
    guests = [pipeline.guest_artifacts() for pipeline in pipelines]
    facts = host_facts()
    pairs = zip(pipelines, guests, strict=True)
    tables = tuple(_table(_measure(pipeline, guest), guest) for pipeline, guest in pairs)
    section = Section("boot", now(), facts, tables)
    publish(section)


def _measure(pipeline: Pipeline, guest: GuestArtifacts) -> Measured:
    """Boot both artifacts in turn: the timed boots first, then those whose instructions are counted."""
    arch = pipeline.arch
    boots: dict[Artifact, list[Boot]] = {artifact: [] for artifact in ARTIFACTS}
    counted: dict[Artifact, list[int]] = {artifact: [] for artifact in ARTIFACTS}
    total = len(ARTIFACTS) * (BOOTS + COUNTED)
    with scratch_directory("guestforge-bench-") as scratch, bar(f"booting {arch.name}", total, "boots") as shown:
        for artifact in ARTIFACTS * BOOTS:
            boots[artifact].append(_timed(_plan(guest, artifact, scratch)))
            shown.update()
        for artifact in ARTIFACTS * COUNTED:
            counted[artifact].append(_counted(replace(_plan(guest, artifact, scratch), icount=True)))
            shown.update()
    return Measured(arch, _sizes(pipeline), boots, counted)


def _plan(guest: GuestArtifacts, artifact: Artifact, scratch: Path) -> MachinePlan:
    """Return the guest's own machine: what a recipe asks for, and no storage besides."""
    return guest_plan(guest, artifact, "tcg", choose_vsock().vsock, scratch / "console.log")


def _sizes(pipeline: Pipeline) -> Sizes:
    kernel, initrd, agent = pipeline.kernel.files, pipeline.initrd.files, pipeline.agent.files
    return Sizes(kernel[KERNEL].size, initrd[INITRD].size, agent[AGENT].size)


def _timed(plan: MachinePlan) -> Boot:
    """Boot once. Raises CheckError for a guest that does not get ready."""
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        machine = stack.enter_context(Machine(plan))
        client = stack.enter_context(contextlib.closing(_ready(machine)))
        seconds = time.monotonic() - start
        host = machine.memory()
        guest = guest_memory(parse_metrics(client.metrics()))
    if host is None:
        raise CheckError("the guest was ready, and then QEMU's memory could not be read")
    return Boot(seconds, guest.used_kib, guest.total_kib, host.rss_kib, host.pss_kib)


def _ready(machine: Machine) -> AgentClient:
    return wait_ready(machine.dial(AGENT_PORT), LIMIT, machine.why_ended)


def _counted(plan: MachinePlan) -> int:
    """Boot once; return how many instructions it took, once the agent has answered too.

    Nobody connects before the count is taken, or the guest would work for that as well.
    """
    with Machine(plan) as machine:
        machine.wait_console(READY, LIMIT)
        machine.execute("stop")  # an idle guest's timer ticks would count on
        instructions = machine.instructions()
        machine.execute("cont")
        _ready(machine).close()
    return instructions


def _table(measured: Measured, guest: GuestArtifacts) -> Table:
    arch = measured.arch
    facts = (
        ("guest kernel", guest.kernel_release),
        ("compiler", compiler(arch)),
        ("emulator", choose_emulator(arch).version),
        ("vsock", choose_vsock().describe()),
        ("guest", f"{guest.guest}, {guest.cpus} processor, {guest.memory_mib} MiB"),
    )
    return Table(arch.name, facts, figures(measured))


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return an architecture's figures."""
    boots = tuple(figure for artifact in ARTIFACTS for figure in _boot_figures(measured, artifact))
    return (*boots, *_size_figures(measured.arch, measured.sizes))


def _boot_figures(measured: Measured, artifact: Artifact) -> Iterator[Figure]:
    ready, instructions = f"{artifact}: agent ready", f"{artifact}: guest instructions"
    boots, counted = measured.boots[artifact], [float(count) for count in measured.counted[artifact]]
    seconds = [boot.seconds for boot in boots]
    used = [float(boot.guest_used) for boot in boots]
    rss, pss = [float(boot.qemu_rss) for boot in boots], [float(boot.qemu_pss) for boot in boots]
    total = formatted(boots[0].guest_total, "KiB")
    yield Figure(ready, median(seconds), "seconds", aim(measured.arch, ready), spread(seconds, "seconds"))
    yield Figure(instructions, median(counted), "instructions", aim(measured.arch, instructions),
                 spread(counted, "instructions"))  # fmt: skip
    yield Figure(f"{artifact}: guest memory used", median(used), "KiB", MEMORY,
                 f"{spread(used, 'KiB')}; of {total} that the kernel manages")  # fmt: skip
    yield Figure(f"{artifact}: QEMU's memory", median(rss), "KiB", None,
                 f"resident, {spread(rss, 'KiB')}; shared pages divided: {formatted(median(pss), 'KiB')}")  # fmt: skip


def _size_figures(arch: Arch, sizes: Sizes) -> Iterator[Figure]:
    yield Figure("kernel", sizes.kernel, "bytes")
    yield Figure("initrd", sizes.initrd, "bytes")
    yield Figure("kernel and initrd", sizes.kernel + sizes.initrd, "bytes",
                 SIZE if arch.kernel_target == PACKED else None)  # fmt: skip
    yield Figure("agent", sizes.agent, "bytes", None, "in the disk image as it is, in the initrd compressed")
