"""The agent's API as typed methods, over one connection: what a container runtime does with a guest.

Nothing here needs our own agent: a kata-agent serves all of it. Every method raises RpcError when the agent refuses
or does not answer within `timeout` seconds (for None, the client's own limit), ConnectionLostError when the connection
ends before the answer, ProtocolError for an answer that is malformed. All may be called from several threads at once.
"""

import signal
from collections.abc import Sequence

from guestforge.agent import answers
from guestforge.agent.calls import AGENT_SERVICE
from guestforge.agent.errors import Code, OutputLimitError, ProtocolError, RpcError, printable
from guestforge.agent.guest import GuestCalls
from guestforge.agent.proto import agent_pb2, oci_pb2
from guestforge.agent.storage import Storage
from guestforge.agent.ttrpc import Call
from guestforge.core.countdown import countdown

READ_SIZE = 64 * 1024  # bytes asked for at once: what a pipe holds
WRITE_SIZE = 1024 * 1024  # bytes of standard input in one call
OUTPUT_LIMIT = 16 * 1024 * 1024  # bytes of a stream, unless the caller sets another limit


class AgentClient(GuestCalls):
    """A guest's agent, at the other end of a connection that the client closes. `ready.wait_ready` returns one."""

    # Containers

    def create_container(
        self,
        container_id: str,
        spec: oci_pb2.Spec,
        *,
        storages: Sequence[Storage] = (),
        devices: Sequence[agent_pb2.Device] = (),
        shared_pid_namespace: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Create a container and its first process, which waits for start_container.

        With a shared pid namespace it joins that of the sandbox's first container.
        """
        request = agent_pb2.CreateContainerRequest(
            container_id=container_id,
            exec_id=container_id,  # as Kata's runtimes name a container's first process
            OCI=spec,
            storages=[storage.message() for storage in storages],
            devices=devices,
            sandbox_pidns=shared_pid_namespace,
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

    def begin_wait(self, container_id: str, exec_id: str = "") -> Call[agent_pb2.WaitProcessResponse]:
        """Wait for a process without waiting here: the call's answer comes when it has ended, however long it takes."""
        request = agent_pb2.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        return self.connection.begin(AGENT_SERVICE, "WaitProcess", request, agent_pb2.WaitProcessResponse, None)

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

    def read_some(
        self, container_id: str, exec_id: str = "", timeout: float | None = None, *, errors: bool = False
    ) -> bytes:
        """Return what a process has written to its standard output since, once there is some; nothing at its end.

        With `errors` that is its standard error.
        """
        return self._read_piece("ReadStderr" if errors else "ReadStdout", container_id, exec_id, timeout)

    def write_stdin(self, container_id: str, data: bytes, exec_id: str = "", timeout: float | None = None) -> None:
        """Write all of `data` to a process's standard input; `timeout` is for all of it."""
        left = countdown(self._limit(timeout))
        while data:
            request = agent_pb2.WriteStreamRequest(container_id=container_id, exec_id=exec_id, data=data[:WRITE_SIZE])
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


def _is_end_of_stream(e: RpcError) -> bool:
    """Whether a refusal to read is the end: older kata-agents have no other word for it."""
    return e.code == Code.INTERNAL and e.detail.startswith(("read meet eof", "eof"))
