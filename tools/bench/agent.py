"""`./invoke bench.agent`: what the agent needs, and how quickly it starts processes and containers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Final

from guestforge.agent.client import AgentClient
from guestforge.agent.metrics import parse_metrics
from guestforge.agent.spec import process
from guestforge.check import fixtures, live
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.engine import CheckFailure
from guestforge.check.stage import Stage
from guestforge.core.countdown import countdown
from guestforge.core.progress import Bar, bar
from guestforge.pipeline import Pipeline
from guestforge.project.options import BenchOptions, CheckOptions
from guestforge.rootfs.agent import AGENT
from guestforge.rootfs.tree import Directory, File, Tree
from guestforge.vmm.emulator import choose_emulator
from tools.bench.figures import Aim, Figure, Section, Table, formatted, publish
from tools.bench.guests import READY_LIMIT, built, running
from tools.bench.host import host_facts, now

EXECS: Final = 200
CONTAINERS: Final = 100
MEMORY_MIB: Final = 1024  # of the guest: what runs in a hundred containers has its own
PROGRAM: Final = "/probe"
DISK: Final = "virtio-blk"
DISK_MIB: Final = 64
LIMIT: Final = 1800.0  # seconds of all that is measured in a guest
RSS: Final = "kata_agent_total_rss"  # in bytes
IDLE_AIM: Final = Aim(12 * 1024, strict=True)  # KiB
BUSY_AIM: Final = Aim(30 * 1024, strict=True)  # KiB
SIZE_AIM: Final = Aim(8e6, strict=True)  # bytes


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured of one agent: KiB resident, seconds of each request, bytes on disk."""

    idle_kib: int
    busy_kib: int
    running: list[float]  # an exec's request until its process runs
    exits: list[float]  # the same until its exit code is told
    containers: list[float]  # a container's creation and start
    size: int


def run(measured: BenchOptions) -> None:
    """Measure the architectures that were asked for, by default those that are proven, and write the section."""
    guests = built(measured.arches, ("initrd",))  # before the clock runs
    facts = host_facts()
    section = Section("agent", now(), facts, tuple(_table(guest) for guest in guests))
    publish(section)


def _table(pipeline: Pipeline) -> Table:
    guest = replace(pipeline.guest_artifacts("initrd"), memory_mib=MEMORY_MIB)
    facts = (("emulator", choose_emulator(guest.arch).version), ("guest kernel", guest.kernel_release))
    size = pipeline.agent.files[AGENT].size
    return Table(guest.arch.name, facts, tuple(figures(_measure(guest, size))))


def _measure(guest: GuestArtifacts, size: int) -> Measured:
    tree = Tree([*map(Directory, fixtures.MOUNT_POINTS), File(PROGRAM, guest.probe, 0o755)])
    found: list[Measured] = []
    with running(guest, tree, CheckOptions(accel="tcg"), DISK_MIB) as (started, _):

        def proof(stage: Stage) -> str:
            found.append(_drive(started, stage, guest.arch.name, size))
            return ""

        started.drive(proof, countdown(LIMIT))
    return found[0]


def _drive(guest: live.LiveGuest, stage: Stage, arch: str, size: int) -> Measured:
    idle = resident_kib(stage.client)
    disk = stage.storage(DISK)
    guest.run_program(disk, (PROGRAM, "exit", "0"), READY_LIMIT, 4096)  # which mounts it
    stage.start("main", disk.mount_point, (PROGRAM, "sleep", "3600"))
    with bar(f"processes in a guest of {arch}", EXECS, "execs") as shown:
        running, exits = _execs(stage.client, shown)
    with bar(f"containers in a guest of {arch}", CONTAINERS, "containers") as shown:
        containers = _containers(stage, disk.mount_point, shown)
    busy = resident_kib(stage.client)
    stage.end_all()
    return Measured(idle, busy, running, exits, containers, size)


def _execs(client: AgentClient, shown: Bar) -> tuple[list[float], list[float]]:
    running, exits = [], []
    for number in range(EXECS):
        name, begun = f"e{number}", time.monotonic()
        client.exec_process("main", name, process([PROGRAM, "exit", "0"]))
        running.append(time.monotonic() - begun)
        client.wait_process("main", name)
        exits.append(time.monotonic() - begun)
        shown.update()
    return running, exits


def _containers(stage: Stage, root: str, shown: Bar) -> list[float]:
    """Return what each container took; all of them go on running."""
    seconds = []
    for number in range(CONTAINERS):
        begun = time.monotonic()
        stage.start(f"c{number}", root, (PROGRAM, "sleep", "3600"))
        seconds.append(time.monotonic() - begun)
        shown.update()
    return seconds


def resident_kib(client: AgentClient) -> int:
    """Return the agent's resident memory; raises CheckFailure where it does not tell it."""
    for sample in parse_metrics(client.metrics()):
        if sample.name == RSS:
            return int(sample.value) // 1024
    raise CheckFailure(f"the agent's metrics have no {RSS}")


def figures(measured: Measured) -> Iterator[Figure]:
    """Yield an agent's figures."""
    yield Figure("agent's memory, idle", measured.idle_kib, "KiB", IDLE_AIM, "resident")
    yield Figure(f"agent's memory, {CONTAINERS} containers", measured.busy_kib, "KiB", BUSY_AIM, "resident")
    yield Figure("agent on disk", measured.size, "bytes", SIZE_AIM)
    yield _times("exec until its process runs", measured.running)
    yield _times("exec until its exit code is told", measured.exits)
    yield _times("container created and started", measured.containers)


def _times(name: str, seconds: list[float]) -> Figure:
    late = formatted(quantiles(seconds, n=100)[98], "seconds")
    return Figure(name, median(seconds), "seconds", None, f"median of {len(seconds)}, 99th percentile {late}")
