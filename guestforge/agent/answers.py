"""What a guest's agent answered, as plain data. Texts are the guest's: printable, cut, and not to be believed."""

from collections.abc import Mapping
from dataclasses import dataclass

from guestforge.agent.errors import printable
from guestforge.agent.proto import agent_pb2, health_pb2

MAX_NAMES = 1_000  # of handlers or features that are taken from one answer
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Version:
    """The version of the interface (0.0.1 for ever, so far) and of the agent."""

    interface: str
    agent: str


@dataclass(frozen=True, slots=True)
class GuestDetails:
    """What the agent tells of itself and of the guest.

    `memory_block_size` is the unit of memory hotplug in bytes, 0 where the guest has none.
    """

    version: str
    init_daemon: bool
    memory_block_size: int
    memory_hotplug_probe: bool
    storage_handlers: frozenset[str]
    supports_seccomp: bool
    extra_features: frozenset[str]


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of something there is, is used, and is left."""

    total: int
    used: int
    available: int


@dataclass(frozen=True, slots=True)
class VolumeStats:
    """A mounted volume's bytes and inodes; None for what the agent did not tell."""

    bytes: Usage | None
    inodes: Usage | None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of memory; a limit that nobody set is as large as numbers go."""

    usage: int
    limit: int


@dataclass(frozen=True, slots=True)
class NetworkUse:
    """What a network interface has carried, in bytes."""

    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """What a container has used: seconds of processors, bytes of memory, processes, interfaces by name.

    `throttled` are the seconds for which its quota kept it from running. None: the agent did not tell.
    """

    cpu_seconds: float
    throttled: float
    memory: MemoryUse | None
    processes: int
    process_limit: int
    network: Mapping[str, NetworkUse]


def container_stats(answer: agent_pb2.StatsContainerResponse) -> ContainerStats:
    """Return the answer to StatsContainer."""
    found = answer.cgroup_stats
    memory = found.memory_stats.usage if found.HasField("memory_stats") else None
    return ContainerStats(
        cpu_seconds=found.cpu_stats.cpu_usage.total_usage / NANOSECONDS,
        throttled=found.cpu_stats.throttling_data.throttled_time / NANOSECONDS,
        memory=MemoryUse(memory.usage, memory.limit) if memory else None,
        processes=found.pids_stats.current,
        process_limit=found.pids_stats.limit,
        network={
            printable(each.name): NetworkUse(each.rx_bytes, each.tx_bytes) for each in answer.network_stats[:MAX_NAMES]
        },
    )


def version(answer: health_pb2.VersionCheckResponse) -> Version:
    """Return the answer to Health.Version."""
    return Version(printable(answer.grpc_version), printable(answer.agent_version))


def guest_details(answer: agent_pb2.GuestDetailsResponse) -> GuestDetails:
    """Return the answer to GetGuestDetails."""
    details = answer.agent_details
    return GuestDetails(
        version=printable(details.version),
        init_daemon=details.init_daemon,
        memory_block_size=answer.mem_block_size_bytes,
        memory_hotplug_probe=answer.support_mem_hotplug_probe,
        storage_handlers=frozenset(printable(name) for name in details.storage_handlers[:MAX_NAMES]),
        supports_seccomp=details.supports_seccomp,
        extra_features=frozenset(printable(name) for name in details.extra_features[:MAX_NAMES]),
    )


def volume_stats(answer: agent_pb2.VolumeStatsResponse) -> VolumeStats:
    """Return the answer to GetVolumeStats."""
    usage = {entry.unit: Usage(entry.total, entry.used, entry.available) for entry in answer.usage[:MAX_NAMES]}
    return VolumeStats(usage.get(agent_pb2.VolumeUsage.BYTES), usage.get(agent_pb2.VolumeUsage.INODES))
