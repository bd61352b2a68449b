"""A kata-agent's part, played behind a real socket: it refuses and leaves out what kata-agent 4.1.0 was seen to.

Nothing of it is ours: what our client and our checks ask for has to be what this agent serves.
"""

import contextlib
import json
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from guestforge.agent.client import AgentClient
from guestforge.agent.errors import AgentError
from guestforge.agent.proto import agent_pb2
from guestforge.agent.ttrpc import Connection
from guestforge.check import live
from guestforge.check.engine import CheckFailure
from guestforge.check.guest import Ask, Details, Machine
from guestforge.check.probe import OUTPUT_LIMIT, PROBE, ProbeTalk
from guestforge.check.sandbox import Sandbox
from guestforge.check.storages import Storage
from guestforge.testing.fake_agent import REQUESTS
from guestforge.testing.guest_double import Guest, Start
from guestforge.testing.ttrpc_server import Handler, Refusal, Server
from guestforge.vmm.plan import Vsock

# since 3.29.0, which removed 9p
DRIVERS = ("blk", "ephemeral", "local", "mmioblk", "nvdimm", "overlayfs", "scsi", "virtio-fs", "watchable-bind")
INTERNAL = 13


class KataAgent:
    """`sources` are what can be mounted: nodes of disks, tags of shares; `broken` has the words of a driver's refusals.

    `run` is what a container's probe does: from its root's mount point, a step's number and arguments to what it says.
    """

    def __init__(
        self,
        sources: Collection[str] = (),
        run: Callable[[str, int, list[str]], bytes] | None = None,
        broken: Mapping[str, str] | None = None,
        drivers: Sequence[str] = DRIVERS,
    ) -> None:
        self.sources = sources
        self.run = run
        self.broken = broken or {}
        self.drivers = drivers
        self.asked: list[tuple[str, Message]] = []
        self.mounted: set[str] = set()
        self.containers: dict[str, agent_pb2.CreateContainerRequest] = {}
        self.said = b""
        self._namespaces_bound = False

    def requests(self, method: str) -> list[Any]:
        return [request for name, request in self.asked if name == method]

    def handlers(self) -> dict[str, Handler]:
        methods = {method: getattr(self, method, None) for method in REQUESTS}
        return {method: self._handler(method, do) for method, do in methods.items() if do}

    def _handler(self, method: str, do: Callable[[Any], Message | None]) -> Handler:
        def handle(payload: bytes) -> Message:
            request = REQUESTS[method]()
            request.ParseFromString(payload)
            self.asked.append((method, request))
            return do(request) or Empty()

        return handle

    def GetGuestDetails(self, _: agent_pb2.GuestDetailsRequest) -> agent_pb2.GuestDetailsResponse:
        details = agent_pb2.AgentDetails(version="4.1.0", storage_handlers=self.drivers)
        return agent_pb2.GuestDetailsResponse(agent_details=details)

    def CreateSandbox(self, request: agent_pb2.CreateSandboxRequest) -> None:
        if self._namespaces_bound:  # and nothing ever takes them away, whatever became of the request
            raise Refusal(INTERNAL, "setup persistent IPC namespace: Operation not permitted (os error 1)")
        self._namespaces_bound = True
        if "sandbox" in self.broken:
            raise Refusal(INTERNAL, self.broken["sandbox"])
        for storage in request.storages:
            self._mount(storage)

    def DestroySandbox(self, _: agent_pb2.DestroySandboxRequest) -> None:
        """Kills, syncs and powers off, and leaves mounted what is."""

    def CreateContainer(self, request: agent_pb2.CreateContainerRequest) -> None:
        for storage in request.storages:
            self._mount(storage)
        if request.OCI.Root.Path not in self.mounted:
            raise Refusal(INTERNAL, f"no such directory: {request.OCI.Root.Path}")
        self.containers[request.container_id] = request

    def StartContainer(self, request: agent_pb2.StartContainerRequest) -> None:
        self._container(request)

    def ExecProcess(self, request: agent_pb2.ExecProcessRequest) -> None:
        named = [space.Type for space in self._container(request).OCI.Linux.Namespaces]
        if "pid" in named:  # the agent adds one by itself
            raise Refusal(INTERNAL, "failed to join pidns: EINVAL")

    def WriteStdin(self, request: agent_pb2.WriteStreamRequest) -> agent_pb2.WriteStreamResponse:
        container = self._container(request)
        assert list(container.OCI.Process.Args) == ["/probe", "serve"]
        wanted = json.loads(request.data)
        assert self.run is not None
        self.said += self.run(container.OCI.Root.Path, wanted["id"], wanted["args"])
        return agent_pb2.WriteStreamResponse(len=len(request.data))

    def CloseStdin(self, request: agent_pb2.CloseStdinRequest) -> None:
        self._container(request)

    def ReadStdout(self, request: agent_pb2.ReadStreamRequest) -> agent_pb2.ReadStreamResponse:
        self._container(request)
        said, self.said = self.said, b""
        return agent_pb2.ReadStreamResponse(data=said)

    def ReadStderr(self, _: agent_pb2.ReadStreamRequest) -> agent_pb2.ReadStreamResponse:
        return agent_pb2.ReadStreamResponse()

    def WaitProcess(self, _: agent_pb2.WaitProcessRequest) -> agent_pb2.WaitProcessResponse:
        return agent_pb2.WaitProcessResponse(status=0)

    def RemoveContainer(self, request: agent_pb2.RemoveContainerRequest) -> None:
        self.mounted -= {storage.mount_point for storage in self._container(request).storages}
        del self.containers[request.container_id]

    def _container(self, request: Any) -> agent_pb2.CreateContainerRequest:
        if request.container_id not in self.containers:
            raise Refusal(INTERNAL, "Invalid container id")
        return self.containers[request.container_id]

    def _mount(self, storage: agent_pb2.Storage) -> None:
        if storage.driver not in self.drivers:
            raise Refusal(INTERNAL, f"Failed to find the storage handler {storage.driver}")
        if storage.driver in self.broken:
            raise Refusal(INTERNAL, self.broken[storage.driver])
        if storage.driver == "blk" and not storage.source.startswith("/dev/"):  # came before the agent: no event
            raise Refusal(INTERNAL, f"Timeout after 3s waiting for uevent VirtioBlkPciMatcher {storage.source}")
        if storage.source not in self.sources:
            raise Refusal(INTERNAL, f"No such device: {storage.source}")
        self.mounted.add(storage.mount_point)


@contextlib.contextmanager
def talking_to(agent: KataAgent) -> Iterator[AgentClient]:
    """A client of the agent, over a socket pair."""
    ours, theirs = socket.socketpair()
    server = Server(theirs, agent.handlers())
    try:
        with AgentClient(Connection(ours), timeout=5) as client:
            yield client
    finally:
        server.close()


class KataGuest(Guest):
    """A machine with that agent, which our own client drives as it drives a real one."""

    def __init__(self, machine: Machine, agent: KataAgent, client: AgentClient, **faults: Any) -> None:
        super().__init__(machine, **faults)
        self.agent = agent
        self._client = client
        plan, words = live.machine_plan(machine, "tcg", Vsock("builtin"))
        node = next(f"/dev/vd{'abc'[i]}" for i, disk in enumerate(plan.disks) if disk.path == self.disk)
        agent.sources = {node, *(share.tag for share in plan.shares)}
        agent.run = self._run
        self._sandbox = Sandbox(client, words)

    def details(self) -> Details:
        details = self._client.guest_details()
        return Details(details.version, details.storage_handlers)

    def create_sandbox(self) -> None:
        with _failures():
            self._sandbox.create()

    @contextlib.contextmanager
    def probing(self, storage: Storage, left: Callable[[], float]) -> Iterator[Ask]:
        with _failures():
            talk = self._sandbox.talk(storage, PROBE, left, OUTPUT_LIMIT)
            probe = ProbeTalk(talk.ask, talk.end)
            yield probe
            probe.end()

    def release(self, storage: Storage, timeout: float) -> None:
        with _failures():
            self._sandbox.release(storage, timeout)

    def power_off(self, timeout: float) -> str:
        self._client.destroy_sandbox()
        self.write_disk()
        if any(storage.mount_point in self.agent.mounted for storage in self.machine.storages if not storage.live):
            with self.disk.open("r+b") as file:  # s_feature_incompat: RECOVER
                file.seek(1024 + 0x60)
                flags = file.read(1)[0]
                file.seek(1024 + 0x60)
                file.write(bytes([flags | 0x4]))
        return "off"

    def _run(self, root: str, number: int, args: list[str]) -> bytes:
        storage = next(storage for storage in self.machine.storages if storage.mount_point == root)
        return json.dumps({"ok": True, "id": number, **self.run_probe(storage, args)}).encode() + b"\n"


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except AgentError as e:
        raise CheckFailure(e.message) from e


def kata_starter(agent: KataAgent, guest: Callable[..., Guest] = KataGuest, **faults: Any) -> Start:
    """Return what starts a machine with that agent in place of QEMU."""

    @contextlib.contextmanager
    def start(machine: Machine) -> Iterator[Guest]:
        with talking_to(agent) as client:
            yield guest(machine, agent, client, **faults)

    return start
