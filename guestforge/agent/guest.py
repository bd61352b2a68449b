"""The agent's methods that are about the guest as a whole: itself, its sandbox, its files, its network, its machine."""

import contextlib
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.empty_pb2 import Empty

from guestforge.agent import answers
from guestforge.agent.calls import HEALTH_SERVICE, Calls
from guestforge.agent.errors import AgentError, ConnectionLostError
from guestforge.agent.proto import agent_pb2, health_pb2, types_pb2
from guestforge.agent.storage import Storage
from guestforge.agent.ttrpc import Call

CHUNK = 1024 * 1024  # bytes of a file in one CopyFile, as Kata's runtimes send them


class GuestCalls(Calls):
    """What is asked of a guest besides its containers."""

    # The agent and the guest

    def begin_check(self, timeout: float) -> Call[health_pb2.HealthCheckResponse]:
        """Ask whether the agent serves, without waiting for the answer."""
        request = health_pb2.CheckRequest()
        return self.connection.begin(HEALTH_SERVICE, "Check", request, health_pb2.HealthCheckResponse, timeout)

    def check_health(self, timeout: float | None = None) -> bool:
        """Return whether the agent says that it serves."""
        answer = self.begin_check(self._limit(timeout)).result()
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def version(self) -> answers.Version:
        """Return the versions of the interface and of the agent."""
        answer = health_pb2.VersionCheckResponse
        return answers.version(
            self.connection.call(HEALTH_SERVICE, "Version", health_pb2.CheckRequest(), answer, self.timeout)
        )

    def guest_details(self) -> answers.GuestDetails:
        """Return what the agent tells of itself and of the guest."""
        request = agent_pb2.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True)
        return answers.guest_details(self._call("GetGuestDetails", request, agent_pb2.GuestDetailsResponse))

    def set_guest_date_time(self, seconds: int, microseconds: int = 0) -> None:
        """Set the guest's clock: seconds since 1970 UTC, and microseconds."""
        self._do("SetGuestDateTime", agent_pb2.SetGuestDateTimeRequest(Sec=seconds, Usec=microseconds))

    def reseed_random(self, data: bytes) -> None:
        """Feed random bytes to the guest's generator; a guest that was cloned from a snapshot needs it."""
        self._do("ReseedRandomDev", agent_pb2.ReseedRandomDevRequest(data=data))

    def metrics(self) -> str:
        """Return the agent's metrics, Prometheus text; `metrics.parse_metrics` reads it."""
        return self._call("GetMetrics", agent_pb2.GetMetricsRequest(), agent_pb2.Metrics).metrics

    def set_policy(self, policy: str, timeout: float | None = None) -> None:
        """Have an agent that has a policy engine refuse what a policy (Rego) does not allow. Ours has none."""
        self._do("SetPolicy", agent_pb2.SetPolicyRequest(policy=policy), timeout)

    # The sandbox and its storages

    def create_sandbox(
        self,
        sandbox_id: str,
        *,
        hostname: str = "",
        dns: Sequence[str] = (),
        storages: Sequence[Storage] = (),
        shared_pid_namespace: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Create the sandbox, of which an agent has one at a time, and mount storages; before any container."""
        request = agent_pb2.CreateSandboxRequest(
            sandbox_id=sandbox_id,
            hostname=hostname,
            dns=dns,
            storages=[storage.message() for storage in storages],
            sandbox_pidns=shared_pid_namespace,
        )
        self._do("CreateSandbox", request, timeout)

    def destroy_sandbox(self, timeout: float | None = None) -> None:
        """End the sandbox; an agent that is the guest's init powers the guest off.

        That may end the connection before the answer has left the guest, so a lost connection is no error here.
        Whether the guest has ended is the machine's to tell.
        """
        call = self._begin("DestroySandbox", agent_pb2.DestroySandboxRequest(), Empty, timeout)
        with contextlib.suppress(ConnectionLostError):
            call.result()

    def volume_stats(self, path: str) -> answers.VolumeStats:
        """Return how full the volume is that is mounted at a path of the guest."""
        request = agent_pb2.VolumeStatsRequest(volume_guest_path=path)
        return answers.volume_stats(self._call("GetVolumeStats", request, agent_pb2.VolumeStatsResponse))

    def resize_volume(self, path: str, size: int = 0, timeout: float | None = None) -> None:
        """Have the volume that is mounted at a path of the guest grow to `size` bytes, or with 0 to its whole disk."""
        self._do("ResizeVolume", agent_pb2.ResizeVolumeRequest(volume_guest_path=path, size=size), timeout)

    def update_ephemeral_mounts(self, storages: Sequence[Storage], timeout: float | None = None) -> None:
        """Remount ephemeral storages, which the agent has mounted already, with the options that these have."""
        request = agent_pb2.UpdateEphemeralMountsRequest(storages=[storage.message() for storage in storages])
        self._do("UpdateEphemeralMounts", request, timeout)

    def remove_stale_share_mounts(self, timeout: float | None = None) -> None:
        """Have the guest give up mounts on directories of the share that are not there any more."""
        self._do("RemoveStaleVirtiofsShareMounts", agent_pb2.RemoveStaleVirtiofsShareMountsRequest(), timeout)

    # Files

    def copy_file(
        self, source: Path | bytes, path: str, *, mode: int = 0o644, dir_mode: int = 0o755, uid: int = 0, gid: int = 0
    ) -> None:
        """Write a file in the guest, below SHARE_POINT; it appears there when it is whole.

        `mode` is the file's, `dir_mode` that of the directories that are made for it.
        Raises AgentError for a source that changes its size meanwhile, and OSError for one that can't be read.
        """
        for size, offset, data in _chunks(source):
            request = agent_pb2.CopyFileRequest(
                path=path,
                file_size=size,
                file_mode=stat.S_IFREG | mode,
                dir_mode=dir_mode,
                uid=uid,
                gid=gid,
                offset=offset,
                data=data,
            )
            self._do("CopyFile", request)

    # The network, which all containers share

    def list_interfaces(self, timeout: float | None = None) -> tuple[types_pb2.Interface, ...]:
        """Return the guest's network interfaces."""
        answer = self._call("ListInterfaces", agent_pb2.ListInterfacesRequest(), agent_pb2.Interfaces, timeout)
        return tuple(answer.Interfaces)

    def update_interface(self, interface: types_pb2.Interface, timeout: float | None = None) -> None:
        """Give the interface with a hardware address its name, MTU and addresses, and bring it up."""
        request = agent_pb2.UpdateInterfaceRequest(interface=interface)
        self._call("UpdateInterface", request, types_pb2.Interface, timeout)

    def list_routes(self, timeout: float | None = None) -> tuple[types_pb2.Route, ...]:
        """Return the guest's routes."""
        return tuple(self._call("ListRoutes", agent_pb2.ListRoutesRequest(), agent_pb2.Routes, timeout).Routes)

    def update_routes(
        self, routes: Sequence[types_pb2.Route], timeout: float | None = None
    ) -> tuple[types_pb2.Route, ...]:
        """Put routes in the place of those that there are, but for the kernel's own; return all."""
        request = agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=routes))
        return tuple(self._call("UpdateRoutes", request, agent_pb2.Routes, timeout).Routes)

    def add_neighbours(self, neighbours: Sequence[types_pb2.ARPNeighbor], timeout: float | None = None) -> None:
        """Tell of hosts on a link whose hardware addresses need not be asked for."""
        table = agent_pb2.ARPNeighbors(ARPNeighbors=neighbours)
        self._do("AddARPNeighbors", agent_pb2.AddARPNeighborsRequest(neighbors=table), timeout)

    # Processors, memory and swap space that were plugged in

    def online(
        self, cpus: int = 0, *, wait: bool = False, cpu_only: bool = False, timeout: float | None = None
    ) -> None:
        """Take processors into use, so many or all that are there, and memory; `wait` for those that are to come."""
        self._do("OnlineCPUMem", agent_pb2.OnlineCPUMemRequest(wait=wait, nb_cpus=cpus, cpu_only=cpu_only), timeout)

    def probe_memory(self, addresses: Sequence[int], timeout: float | None = None) -> None:
        """Tell the kernel of memory at these addresses, if GuestDetails.memory_hotplug_probe says that it takes it."""
        self._do("MemHotplugByProbe", agent_pb2.MemHotplugByProbeRequest(memHotplugProbeAddr=addresses), timeout)

    def add_swap(self, slots: Sequence[int], timeout: float | None = None) -> None:
        """Take a virtio disk as swap space, by its PCI path: its slots from the root bus on. mkswap has been there."""
        self._do("AddSwap", agent_pb2.AddSwapRequest(PCIPath=slots), timeout)

    def add_swap_path(self, node: str, timeout: float | None = None) -> None:
        """Take a disk as swap space, by its node in the guest (`/dev/vdb`)."""
        self._do("AddSwapPath", agent_pb2.AddSwapPathRequest(path=node), timeout)


def _chunks(source: Path | bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield size of the whole, offset and data of each chunk; one empty chunk for an empty file."""
    if isinstance(source, bytes):
        for offset in range(0, max(1, len(source)), CHUNK):
            yield len(source), offset, source[offset : offset + CHUNK]
        return
    with source.open("rb") as file:
        size = source.stat().st_size
        for offset in range(0, max(1, size), CHUNK):
            data = file.read(min(CHUNK, size - offset))
            if len(data) != min(CHUNK, size - offset):
                raise AgentError(f"{source} became shorter while it was copied to the guest")
            yield size, offset, data
