"""An agent of the tests' own behind a real socket: it keeps what it is asked, and plays one container's program."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from guestforge.agent.client import AgentClient
from guestforge.agent.proto import agent_pb2, health_pb2
from guestforge.agent.ttrpc import Connection
from guestforge.testing.ttrpc_server import Handler, Refusal, Server


@dataclass
class Program:
    """What a container's program does. Its streams end with empty data, or with a refusal that says `end`."""

    stdout: list[bytes] = field(default_factory=list)
    stderr: list[bytes] = field(default_factory=list)
    status: int = 0
    end: str = ""
    takes: int = 1 << 20  # bytes of its standard input at once
    hangs: bool = False  # its streams do not end before it is killed
    stderr_first: bool = False  # it writes nothing to stdout before all of stderr was read


REQUESTS: dict[str, type[Message]] = {
    "Check": health_pb2.CheckRequest,
    "Version": health_pb2.CheckRequest,
    "GetGuestDetails": agent_pb2.GuestDetailsRequest,
    "SetGuestDateTime": agent_pb2.SetGuestDateTimeRequest,
    "ReseedRandomDev": agent_pb2.ReseedRandomDevRequest,
    "GetMetrics": agent_pb2.GetMetricsRequest,
    "CreateSandbox": agent_pb2.CreateSandboxRequest,
    "DestroySandbox": agent_pb2.DestroySandboxRequest,
    "GetVolumeStats": agent_pb2.VolumeStatsRequest,
    "UpdateEphemeralMounts": agent_pb2.UpdateEphemeralMountsRequest,
    "ResizeVolume": agent_pb2.ResizeVolumeRequest,
    "AddSwap": agent_pb2.AddSwapRequest,
    "AddSwapPath": agent_pb2.AddSwapPathRequest,
    "SetPolicy": agent_pb2.SetPolicyRequest,
    "RemoveStaleVirtiofsShareMounts": agent_pb2.RemoveStaleVirtiofsShareMountsRequest,
    "CopyFile": agent_pb2.CopyFileRequest,
    "CreateContainer": agent_pb2.CreateContainerRequest,
    "StartContainer": agent_pb2.StartContainerRequest,
    "RemoveContainer": agent_pb2.RemoveContainerRequest,
    "ExecProcess": agent_pb2.ExecProcessRequest,
    "WaitProcess": agent_pb2.WaitProcessRequest,
    "SignalProcess": agent_pb2.SignalProcessRequest,
    "ReadStdout": agent_pb2.ReadStreamRequest,
    "ReadStderr": agent_pb2.ReadStreamRequest,
    "WriteStdin": agent_pb2.WriteStreamRequest,
    "CloseStdin": agent_pb2.CloseStdinRequest,
    "UpdateContainer": agent_pb2.UpdateContainerRequest,
    "StatsContainer": agent_pb2.StatsContainerRequest,
    "PauseContainer": agent_pb2.PauseContainerRequest,
    "ResumeContainer": agent_pb2.ResumeContainerRequest,
    "GetOOMEvent": agent_pb2.GetOOMEventRequest,
    "OnlineCPUMem": agent_pb2.OnlineCPUMemRequest,
    "ListInterfaces": agent_pb2.ListInterfacesRequest,
    "UpdateInterface": agent_pb2.UpdateInterfaceRequest,
    "ListRoutes": agent_pb2.ListRoutesRequest,
    "UpdateRoutes": agent_pb2.UpdateRoutesRequest,
    "AddARPNeighbors": agent_pb2.AddARPNeighborsRequest,
    "TtyWinResize": agent_pb2.TtyWinResizeRequest,
    "MemHotplugByProbe": agent_pb2.MemHotplugByProbeRequest,
}


class FakeAgent:
    """`answers` and `refusals` go by method; what has neither is answered by Empty, or by the program."""

    def __init__(self, program: Program | None = None) -> None:
        self.program = program or Program()
        self.asked: list[tuple[str, Message]] = []
        self.answers: dict[str, Message] = {}
        self.refusals: dict[str, Refusal] = {}
        self.cut_at = ""  # the method at which the connection ends
        self.server: Server
        self._killed = threading.Event()
        self._stderr_read = threading.Event()
        self._own = {
            "ReadStdout": self._stdout,
            "ReadStderr": self._stderr,
            "WaitProcess": self._wait,
            "WriteStdin": self._take,
        }

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    def requests(self, method: str) -> list[Message]:
        return [request for name, request in self.asked if name == method]

    def handlers(self) -> dict[str, Handler]:
        return {method: self._handler(method) for method in REQUESTS}

    def release(self) -> None:
        self._killed.set()
        self._stderr_read.set()

    def _handler(self, method: str) -> Handler:
        def handle(payload: bytes) -> Message:
            request = REQUESTS[method]()
            request.ParseFromString(payload)
            self.asked.append((method, request))
            if method == self.cut_at:
                self.server.socket.shutdown(socket.SHUT_RDWR)
            if method in self.refusals:
                raise self.refusals[method]
            if method in ("SignalProcess", "RemoveContainer"):
                self._killed.set()
            if method in self.answers:
                return self.answers[method]
            own = self._own.get(method)
            return own(request) if own else Empty()

        return handle

    def _stdout(self, request: Message) -> Message:
        if self.program.stderr_first:
            self._stderr_read.wait(10)
        return self._piece(self.program.stdout, request)

    def _stderr(self, request: Message) -> Message:
        if not self.program.stderr:
            self._stderr_read.set()
        return self._piece(self.program.stderr, request)

    def _piece(self, pieces: list[bytes], request: Message) -> Message:
        assert isinstance(request, agent_pb2.ReadStreamRequest)
        if not pieces and self.program.hangs:
            self._killed.wait(10)
        if not pieces and self.program.end:
            raise Refusal(13, self.program.end)
        piece = pieces.pop(0) if pieces else b""
        if len(piece) > request.len:
            pieces.insert(0, piece[request.len :])
        return agent_pb2.ReadStreamResponse(data=piece[: request.len])

    def _take(self, request: Message) -> Message:
        assert isinstance(request, agent_pb2.WriteStreamRequest)
        return agent_pb2.WriteStreamResponse(len=min(len(request.data), self.program.takes))

    def _wait(self, _: Message) -> Message:
        return agent_pb2.WaitProcessResponse(status=137 if self._killed.is_set() else self.program.status)


@contextlib.contextmanager
def talking_to(agent: FakeAgent) -> Iterator[AgentClient]:
    """A client of the agent, over a socket pair."""
    ours, theirs = socket.socketpair()
    agent.server = Server(theirs, agent.handlers())
    try:
        with AgentClient(Connection(ours), timeout=5) as client:
            yield client
    finally:
        agent.release()
        agent.server.close()
