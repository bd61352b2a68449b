"""`./invoke bench.storage`: how quickly a guest works on each of its storages, held against virtio-blk."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, get_args

from guestforge.arch import Arch
from guestforge.check import fixtures, live
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.engine import CheckFailure
from guestforge.check.storages import Storage
from guestforge.core.progress import bar
from guestforge.project.options import BenchOptions, CheckOptions
from guestforge.rootfs.tree import Directory, File, Tree
from guestforge.vmm.emulator import choose_emulator
from guestforge.vmm.virtiofs import Kind
from guestforge.vmm.virtiofsd import find_virtiofsd, why_not
from tools.bench.figures import Aim, Figure, Section, Table, publish, spread
from tools.bench.guests import built, running
from tools.bench.host import host_facts, now

PROGRAM: Final = "/storagebench"
PLACE: Final = "/out"
ROUNDS: Final = 3  # machines with each server, in turn: what slows the host slows both
RUNS: Final = 2  # on each storage of a machine, in turn
DISK_MIB: Final = 256
LIMIT: Final = 600.0  # seconds of one run
OUTPUT_LIMIT: Final = 4096  # bytes
REFERENCE: Final = "virtio-blk"
OURS: Final[Kind] = "builtin"
SERVERS: Final[tuple[Kind, ...]] = get_args(Kind)

# What storagebench tells, in seconds, and the least share of virtiofsd's speed that ours is to have.
WORK: Final = {"sequential_write": 0.7, "sequential_read": 0.7, "random_read": None, "small_files": 0.4}
DEVICE_MEMORY: Final = Aim(64 * 1024, strict=True)  # KiB

Seconds = dict[str, list[float]]  # by the kind of work


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of a machine, or of several with the same server.

    Seconds by storage and work, and the KiB that the virtio-fs server had of its own.
    """

    server: Kind
    seconds: dict[str, Seconds]
    memory: int


def run(measured: BenchOptions) -> None:
    """Measure the architectures that were asked for, by default those that are proven, and write the section."""
    guests = [(pipeline.guest_artifacts(), pipeline.storagebench) for pipeline in built(measured.arches)]
    facts = host_facts()
    section = Section("storage", now(), facts, tuple(_table(guest, program) for guest, program in guests))
    publish(section)


def servers(arch: Arch) -> tuple[Kind, ...]:
    """Return the virtio-fs servers that can serve an architecture's guests here."""
    usable = find_virtiofsd() is not None and why_not(arch) is None
    return SERVERS if usable else (OURS,)


def _table(guest: GuestArtifacts, program: Path) -> Table:
    kinds = servers(guest.arch)
    rounds = [_measure(guest, program, server) for _ in range(ROUNDS) for server in kinds]
    measured = [together([one for one in rounds if one.server == server]) for server in kinds]
    facts = (("emulator", choose_emulator(guest.arch).version), ("guest kernel", guest.kernel_release))
    return Table(guest.arch.name, facts, tuple(figures(measured)))


def together(rounds: list[Measured]) -> Measured:
    """Return the figures of a server's machines as those of one: all times, and the most memory."""
    seconds = {
        storage: {work: [value for one in rounds for value in one.seconds[storage][work]] for work in WORK}
        for storage in rounds[0].seconds
    }
    return Measured(rounds[0].server, seconds, max(one.memory for one in rounds))


def _measure(guest: GuestArtifacts, program: Path, server: Kind) -> Measured:
    """Boot a guest with a virtio-fs server and have it work on each storage in turn, several times."""
    tree = Tree([*map(Directory, fixtures.MOUNT_POINTS), File(PROGRAM, program, 0o755), Directory(PLACE)])
    options = CheckOptions(accel="tcg", virtio_fs_server=server)
    with running(guest, tree, options, DISK_MIB) as (started, storages):
        return _work(started, storages, server)


def _work(guest: live.LiveGuest, storages: tuple[Storage, ...], server: Kind) -> Measured:
    seconds: dict[str, Seconds] = {storage.check: {work: [] for work in WORK} for storage in storages}
    with bar(f"storages with {server}", RUNS * len(storages), "runs") as shown:
        for storage in storages * RUNS:
            for work, value in _one_run(guest, storage).items():
                seconds[storage.check][work].append(value)
            shown.update()
    return Measured(server, seconds, guest.virtio_fs_memory())


def _one_run(guest: live.LiveGuest, storage: Storage) -> dict[str, float]:
    ran = guest.run_program(storage, [PROGRAM, PLACE], LIMIT, OUTPUT_LIMIT)
    if ran.status != 0:
        raise CheckFailure(f"storagebench on {storage.check}", ran.stderr.decode(errors="replace"))
    return parse(ran.stdout)


def parse(output: bytes) -> dict[str, float]:
    """Return the seconds that storagebench told; raises CheckFailure for anything else that a guest may say."""
    try:
        said = json.loads(output)
        seconds = {work: float(said[work]) for work in WORK}
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise CheckFailure(f"storagebench said something else: {output[:200]!r}") from e
    if not all(0 < value < LIMIT for value in seconds.values()):
        raise CheckFailure(f"storagebench told times that can't be: {seconds}")
    return seconds


def figures(measured: list[Measured]) -> Iterator[Figure]:
    """Yield speeds as shares of virtio-blk's in the same machines, then ours as a share of virtiofsd's."""
    for one in measured:
        for storage in one.seconds:
            if storage == REFERENCE or (storage == "virtio-9p" and one is not measured[-1]):
                continue
            name = f"virtio-fs by {one.server}" if storage == "virtio-fs" else storage
            for work in WORK:
                yield Figure(f"{name} to virtio-blk: {_words(work)}", _speed(one, storage, work), "ratio", None,
                             spread(one.seconds[storage][work], "seconds"))  # fmt: skip
    by_server = {one.server: one for one in measured}
    if len(by_server) > 1:
        theirs, ours = by_server["virtiofsd"], by_server[OURS]
        for work, least in WORK.items():
            times = [one.seconds["virtio-fs"][work] for one in (theirs, ours)]
            aim = Aim(least, least=True) if least else None
            yield Figure(
                f"ours to virtiofsd: {_words(work)}", median(times[0]) / median(times[1]), "ratio", aim,
                f"medians of {len(times[1])}, machines in turn",
            )  # fmt: skip
    yield Figure("memory of our server", by_server[OURS].memory, "KiB", DEVICE_MEMORY, "without the guest's")


def _speed(one: Measured, storage: str, work: str) -> float:
    return median(one.seconds[REFERENCE][work]) / median(one.seconds[storage][work])


def _words(work: str) -> str:
    return work.replace("_", " ")
