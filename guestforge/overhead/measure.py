"""Guests booted into a state, left alone for a while, and looked at."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from guestforge.agent.client import AgentClient
from guestforge.agent.errors import AgentError
from guestforge.agent.metrics import guest_memory, parse_metrics
from guestforge.agent.ready import wait_ready
from guestforge.agent.spec import container_spec, process
from guestforge.agent.storage import SHARE_POINT, SHARE_TAG, virtio_fs
from guestforge.agent.tasks import Status, TaskService
from guestforge.agent.transport import AGENT_PORT
from guestforge.check import fixtures
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.live import guest_plan
from guestforge.core.errors import CheckError
from guestforge.core.scratch import scratch_directory
from guestforge.overhead.usage import cpu_seconds, family, memory_of
from guestforge.project.options import Artifact
from guestforge.rootfs.tree import Directory, File, Node, Tree
from guestforge.vmm.emulator import Emulator
from guestforge.vmm.errors import MachineError
from guestforge.vmm.machine import Machine
from guestforge.vmm.plan import AcceleratorName, MachinePlan, Share
from guestforge.vmm.virtiofs import VirtioFsServer
from guestforge.vmm.vsock import choose_vsock

SANDBOX: Final = "guestforge-overhead"
WAITS: Final = ("/probe", "serve")  # waits for a line that nobody sends
SETTLES: Final = 1.0  # seconds in which what the boot has left to do is done
EXCERPT_LINES: Final = 20
# What a machine calls its programs, and what we do
NAMES: Final = {"qemu": "qemu", f"share {SHARE_TAG}": "virtio_fs", "vsock": "vsock"}


@dataclass(frozen=True, slots=True)
class State:
    """What a guest is brought to before it is measured."""

    name: str
    containers: int


STATES: Final = (State("idle sandbox", 0), State("one container", 1), State("ten containers", 10))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The guests that are measured: `idle` are the seconds over which processor time is counted, `limit` those that a
    guest may take to get ready, and to answer.
    """

    artifacts: GuestArtifacts
    artifact: Artifact
    accelerator: AcceleratorName
    server: VirtioFsServer
    emulator: Emulator
    console_log: Path
    idle: float
    limit: float


@dataclass(frozen=True, slots=True)
class Program:
    """One program of the host: its memory in KiB, and seconds of a processor in a minute in which nothing happens."""

    rss_kib: int
    pss_kib: int
    cpu_seconds_a_minute: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One boot: the guest's memory by its own account, in KiB, and the programs of the host, by NAMES' values.

    `containers_kib` is what the guest's cgroups count for all containers together, page cache included. `vsock` is not
    among the programs where the device is the host kernel's.
    """

    guest_total_kib: int
    guest_used_kib: int
    containers_kib: int
    programs: Mapping[str, Program]


def measure(wanted: Wanted, state: State) -> Sample:
    """Boot once into a state, and measure. Raises CheckError, which names the console, for a guest that fails."""
    with scratch_directory("guestforge-overhead-") as scratch:
        plan = _plan(wanted, state, scratch / "share")
        with _told(wanted, state), Machine(plan, virtiofs=wanted.server, emulator=wanted.emulator) as machine:
            try:
                return _sample(machine, wanted, state)
            except AgentError as e:
                e.excerpt = e.excerpt or machine.console_tail(EXCERPT_LINES)
                raise


def _plan(wanted: Wanted, state: State, share: Path) -> MachinePlan:
    """Return the guest's own machine with a share that has a root directory for each container, as runtimes share."""
    share.mkdir()
    tree: list[Node] = [*map(Directory, fixtures.MOUNT_POINTS), File(WAITS[0], wanted.artifacts.probe, 0o755)]
    for number in range(state.containers):
        root = share / _name(number)
        root.mkdir()
        fixtures.write_directory(Tree(tree), root)
    vsock = choose_vsock().vsock
    plan = guest_plan(wanted.artifacts, wanted.artifact, wanted.accelerator, vsock, wanted.console_log)
    return replace(plan, shares=(Share(SHARE_TAG, share),))


@contextlib.contextmanager
def _told(wanted: Wanted, state: State) -> Iterator[None]:
    """Say of a guest that fails which one it was, and where its console is."""
    try:
        yield
    except (AgentError, MachineError) as e:
        what = f"{wanted.artifacts.arch.name} {wanted.artifact} of {wanted.artifacts.guest}, {state.name}"
        raise CheckError(
            f"{what}: {e.message}", excerpt=e.excerpt, hint=f"the console is in {wanted.console_log}"
        ) from e


def _sample(machine: Machine, wanted: Wanted, state: State) -> Sample:
    with contextlib.closing(wait_ready(machine.dial(AGENT_PORT), wanted.limit, machine.why_ended)) as client:
        machine.on_end(client.close)
        client.timeout = wanted.limit
        tasks = _bring_to(client, state)
        time.sleep(SETTLES)
        programs = {NAMES[role]: family(pid) for role, pid in machine.pids.items()}
        spent = _spent(programs, wanted.idle)
        # The host first: to answer costs the guest memory.
        memory = {name: memory_of(pids, name) for name, pids in programs.items()}
        guest = guest_memory(parse_metrics(client.metrics()))
        containers = containers_kib(tasks, state, guest.total_kib)
        machine.verify()
    used = {name: Program(memory[name].rss_kib, memory[name].pss_kib, spent[name]) for name in programs}
    return Sample(guest.total_kib, guest.used_kib, containers, used)


def _bring_to(client: AgentClient, state: State) -> TaskService:
    """Have a sandbox with the share, as a runtime asks for it, and in it containers that wait; return these."""
    client.create_sandbox(SANDBOX, storages=(virtio_fs(),))
    tasks = TaskService(client)
    for number in range(state.containers):
        name = _name(number)
        tasks.create(name, container_spec(name, f"{SHARE_POINT}{name}", process(WAITS)))
        tasks.start(name)
    return tasks


def containers_kib(tasks: TaskService, state: State, total: int) -> int:
    """Return the memory of all containers of a state, by their cgroups, of the guest's `total`; both in KiB.

    Raises AgentError for one that does not wait any more, and for a guest that says what can't be.
    """
    found = sum(_container_kib(tasks, _name(number)) for number in range(state.containers))
    if found > total:
        raise AgentError(f"the guest has {total} KiB, and says that its containers use {found} KiB")
    return found


def _container_kib(tasks: TaskService, name: str) -> int:
    """Return the memory of a container that waits, by its cgroup."""
    if (status := tasks.state(name).status) is not Status.RUNNING:
        raise AgentError(f"{name} was to wait, and is {status}")
    memory = tasks.stats(name).memory
    if memory is None:
        raise AgentError(f"the agent does not say how much memory {name} uses")
    return memory.usage // 1024


def _spent(programs: Mapping[str, tuple[int, ...]], idle: float) -> dict[str, float]:
    """Return the seconds of a processor that each of the programs uses in a minute, counted over `idle` seconds."""
    start = time.monotonic()
    before = {name: cpu_seconds(pids, name) for name, pids in programs.items()}
    time.sleep(idle)
    after = {name: cpu_seconds(pids, name) for name, pids in programs.items()}
    minutes = (time.monotonic() - start) / 60
    return {name: (after[name] - before[name]) / minutes for name in programs}


def _name(number: int) -> str:
    return f"container-{number}"
