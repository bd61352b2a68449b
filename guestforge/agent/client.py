"""The agent's API as typed methods, over one connection: what a container runtime does with a guest.

Nothing here needs our own agent: a kata-agent serves all of it. Every method raises RpcError when the agent refuses
or does not answer within `timeout` seconds (for None, the client's own limit), ConnectionLostError when the connection
ends before the answer, ProtocolError for an answer that is malformed. All may be called from several threads at once.
"""

import contextlib
import signal
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from guestforge.agent import answers
from guestforge.agent.errors import (
    AgentError,
    Code,
    ConnectionLostError,
    OutputLimitError,
    ProtocolError,
    RpcError,
    printable,
)
from guestforge.agent.proto import agent_pb2, health_pb2, oci_pb2, types_pb2
from guestforge.agent.storage import Storage
from guestforge.agent.ttrpc import Call, Connection
from guestforge.core.countdown import countdown

AGENT_SERVICE = "grpc.AgentService"
HEALTH_SERVICE = "grpc.Health"
DEFAULT_TIMEOUT = 30.0  # seconds; what Kata's runtimes give a request
CHUNK = 1024 * 1024  # bytes of a file in one CopyFile, as Kata's runtimes send them
READ_SIZE = 64 * 1024  # bytes asked for at once: what a pipe holds
OUTPUT_LIMIT = 16 * 1024 * 1024  # bytes of a stream, unless the caller sets another limit

M = TypeVar("M", bound=Message)


class AgentClient:
    """A guest's agent, at the other end of a connection that the client closes. `ready.wait_ready` returns one."""

    def __init__(self, connection: Connection, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.connection = connection
        self.timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that still wait fail."""
        self.connection.close()

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

    # Containers

    def create_container(
        self,
        container_id: str,
        spec: oci_pb2.Spec,
        *,
        storages: Sequence[Storage] = (),
        devices: Sequence[agent_pb2.Device] = (),
        timeout: float | None = None,
    ) -> None:
        """Create a container and its first process, which waits for start_container."""
        request = agent_pb2.CreateContainerRequest(
            container_id=container_id,
            exec_id=container_id,  # as Kata's runtimes name a container's first process
            OCI=spec,
            storages=[storage.message() for storage in storages],
            devices=devices,
        )
        self._do("CreateContainer", request, timeout)

    def start_container(self, container_id: str, timeout: float | None = None) -> None:
        """Let a container's first process go."""
        self._do("StartContainer", agent_pb2.StartContainerRequest(container_id=container_id), timeout)

    def remove_container(self, container_id: str, timeout: float | None = None) -> None:
        """Remove a container, and end the processes that it still has."""
        seconds = max(1, int(self._limit(timeout)))
        request = agent_pb2.RemoveContainerRequest(container_id=container_id, timeout=seconds)
        self._do("RemoveContainer", request, timeout)

    def update_container(
        self, container_id: str, resources: oci_pb2.LinuxResources, timeout: float | None = None
    ) -> None:
        """Change limits of a container; those that are not set stay as they are."""
        self._do(
            "UpdateContainer",
            agent_pb2.UpdateContainerRequest(container_id=container_id, resources=resources),
            timeout,
        )

    def stats_container(self, container_id: str, timeout: float | None = None) -> answers.ContainerStats:
        """Return what a container has used."""
        request = agent_pb2.StatsContainerRequest(container_id=container_id)
        return answers.container_stats(self._call("StatsContainer", request, agent_pb2.StatsContainerResponse, timeout))

    def pause_container(self, container_id: str, timeout: float | None = None) -> None:
        """Stop all processes of a container, which notice nothing of it."""
        self._do("PauseContainer", agent_pb2.PauseContainerRequest(container_id=container_id), timeout)

    def resume_container(self, container_id: str, timeout: float | None = None) -> None:
        """Have the processes of a paused container go on."""
        self._do("ResumeContainer", agent_pb2.ResumeContainerRequest(container_id=container_id), timeout)

    def oom_event(self, timeout: float | None = None) -> str:
        """Wait for a container that has lost a process to the lack of memory; return its id."""
        return printable(
            self._call("GetOOMEvent", agent_pb2.GetOOMEventRequest(), agent_pb2.OOMEvent, timeout).container_id
        )

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

    # Processors and memory that were plugged in

    def online(
        self, cpus: int = 0, *, wait: bool = False, cpu_only: bool = False, timeout: float | None = None
    ) -> None:
        """Take processors into use, so many or all that are there, and memory; `wait` for those that are to come."""
        self._do("OnlineCPUMem", agent_pb2.OnlineCPUMemRequest(wait=wait, nb_cpus=cpus, cpu_only=cpu_only), timeout)

    def probe_memory(self, addresses: Sequence[int], timeout: float | None = None) -> None:
        """Tell the kernel of memory at these addresses, if GuestDetails.memory_hotplug_probe says that it takes it."""
        self._do("MemHotplugByProbe", agent_pb2.MemHotplugByProbeRequest(memHotplugProbeAddr=addresses), timeout)

    # Processes: an empty exec_id is the container's first one

    def exec_process(
        self, container_id: str, exec_id: str, process: oci_pb2.Process, timeout: float | None = None
    ) -> None:
        """Start another process in a running container."""
        request = agent_pb2.ExecProcessRequest(container_id=container_id, exec_id=exec_id, process=process)
        self._do("ExecProcess", request, timeout)

    def wait_process(self, container_id: str, exec_id: str = "", timeout: float | None = None) -> int:
        """Return a process's exit status once it has ended; some agents' streams are gone then: read before."""
        request = agent_pb2.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        return self._call("WaitProcess", request, agent_pb2.WaitProcessResponse, timeout).status

    def signal_process(
        self, container_id: str, exec_id: str = "", number: int = signal.SIGKILL, timeout: float | None = None
    ) -> None:
        """Send a signal to a process, with an empty exec_id to the container's first one."""
        request = agent_pb2.SignalProcessRequest(container_id=container_id, exec_id=exec_id, signal=number)
        self._do("SignalProcess", request, timeout)

    def read_stdout(
        self, container_id: str, exec_id: str = "", *, limit: int = OUTPUT_LIMIT, timeout: float | None = None
    ) -> bytes:
        """Return a process's standard output up to its end; `timeout` is for all of it.

        Raises OutputLimitError for more than `limit` bytes.
        """
        return self._read_stream("ReadStdout", container_id, exec_id, limit, timeout)

    def read_stderr(
        self, container_id: str, exec_id: str = "", *, limit: int = OUTPUT_LIMIT, timeout: float | None = None
    ) -> bytes:
        """Return a process's standard error up to its end, as read_stdout does its output."""
        return self._read_stream("ReadStderr", container_id, exec_id, limit, timeout)

    def read_some(self, container_id: str, exec_id: str = "", timeout: float | None = None) -> bytes:
        """Return what a process has written to its standard output since, once there is some; nothing at its end."""
        return self._read_piece("ReadStdout", container_id, exec_id, timeout)

    def write_stdin(self, container_id: str, data: bytes, exec_id: str = "", timeout: float | None = None) -> None:
        """Write all of `data` to a process's standard input; `timeout` is for all of it."""
        left = countdown(self._limit(timeout))
        while data:
            request = agent_pb2.WriteStreamRequest(container_id=container_id, exec_id=exec_id, data=data[:CHUNK])
            written = self._call("WriteStdin", request, agent_pb2.WriteStreamResponse, left()).len
            if not 0 < written <= len(request.data):
                raise ProtocolError(f"WriteStdin: {written} of {len(request.data)} bytes written")
            data = data[written:]

    def close_stdin(self, container_id: str, exec_id: str = "", timeout: float | None = None) -> None:
        """End a process's standard input."""
        self._do("CloseStdin", agent_pb2.CloseStdinRequest(container_id=container_id, exec_id=exec_id), timeout)

    def resize_terminal(
        self, container_id: str, rows: int, columns: int, exec_id: str = "", timeout: float | None = None
    ) -> None:
        """Tell a process's terminal how large it is."""
        request = agent_pb2.TtyWinResizeRequest(container_id=container_id, exec_id=exec_id, row=rows, column=columns)
        self._do("TtyWinResize", request, timeout)

    def _read_stream(self, method: str, container_id: str, exec_id: str, limit: int, timeout: float | None) -> bytes:
        left = countdown(self._limit(timeout))
        data = bytearray()
        while piece := self._read_piece(method, container_id, exec_id, left()):
            data += piece
            if len(data) > limit:
                raise OutputLimitError(f"{method}: container {container_id} wrote more than {limit} bytes")
        return bytes(data)

    def _read_piece(self, method: str, container_id: str, exec_id: str, timeout: float | None) -> bytes:
        """Return the next piece of a stream, nothing at its end."""
        request = agent_pb2.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=READ_SIZE)
        try:
            return self._call(method, request, agent_pb2.ReadStreamResponse, timeout).data
        except RpcError as e:
            if _is_end_of_stream(e):
                return b""
            raise

    def _do(self, method: str, request: Message, timeout: float | None = None) -> None:
        self._call(method, request, Empty, timeout)

    def _call(self, method: str, request: Message, answer: type[M], timeout: float | None = None) -> M:
        return self._begin(method, request, answer, timeout).result()

    def _begin(self, method: str, request: Message, answer: type[M], timeout: float | None) -> Call[M]:
        return self.connection.begin(AGENT_SERVICE, method, request, answer, self._limit(timeout))

    def _limit(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout


def _is_end_of_stream(e: RpcError) -> bool:
    """Whether a refusal to read is the end: older kata-agents have no other word for it."""
    return e.code == Code.INTERNAL and e.detail.startswith(("read meet eof", "eof"))


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
