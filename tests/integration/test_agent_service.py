"""The Python client against the real Go agent, as a process of the host: not init, on a Unix socket, without a guest.

Only what leaves the host as it is: a sandbox wipes /run/kata-containers, and containers need root. Real boots do these.
Never as PID 1 of a namespace either: it would set the machine up, and devtmpfs is the host's in every mount namespace.
Its network is one of its own: a request for no routes at all once took the host's.
"""

import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from guestforge.agent.client import AgentClient
from guestforge.agent.errors import Code, RpcError
from guestforge.agent.metrics import guest_memory, parse_metrics
from guestforge.agent.proto import agent_pb2
from guestforge.agent.ready import wait_ready
from guestforge.agent.transport import unix_connect
from guestforge.core.run import Process, run, spawn

pytestmark = pytest.mark.slow

SOURCES = Path(__file__).parents[2] / "rootfs" / "agent"
APART = ("unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",)))
GO = Path(sys.executable).with_name("go")
SERVED = {
    "GetGuestDetails", "CreateSandbox", "DestroySandbox", "CopyFile", "GetVolumeStats", "SetGuestDateTime",
    "ReseedRandomDev", "GetMetrics", "CreateContainer", "StartContainer", "ExecProcess", "WaitProcess", "ReadStdout",
    "ReadStderr", "WriteStdin", "CloseStdin", "TtyWinResize", "SignalProcess", "RemoveContainer", "UpdateContainer",
    "StatsContainer", "PauseContainer", "ResumeContainer", "GetOOMEvent", "OnlineCPUMem", "MemHotplugByProbe",
    "ListInterfaces", "UpdateInterface", "ListRoutes", "UpdateRoutes", "AddARPNeighbors",
    "UpdateEphemeralMounts", "ResizeVolume", "AddSwap", "AddSwapPath",
    "RemoveStaleVirtiofsShareMounts",
}  # fmt: skip
OTHERS = [m for m in agent_pb2.DESCRIPTOR.services_by_name["AgentService"].methods if m.name not in SERVED]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Path]]:
    """The agent, running; and its socket."""
    place = tmp_path_factory.mktemp("agent")
    argv = [GO, "build", "-mod=readonly", "-buildvcs=false", "-o", place / "agent", "./cmd/agent"]
    run(argv, cwd=SOURCES, env={"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}, timeout=500)
    path = place / "s"
    env = {"KATA_AGENT_SERVER_ADDR": f"unix://{path}"}
    with (place / "log").open("wb") as log, spawn([*APART, place / "agent"], env=env, stdout=log) as process:
        yield process, path
    print((place / "log").read_text())  # shown by pytest when a test failed


@pytest.fixture
def client(agent: tuple[Process, Path]) -> Iterator[AgentClient]:
    process, path = agent

    def ended() -> str | None:
        return None if process.poll() is None else f"the agent ended with exit code {process.poll()}"

    with wait_ready(partial(unix_connect, path), 20, ended) as client:
        yield client


def test_it_is_healthy_and_tells_its_version(client: AgentClient) -> None:
    assert client.check_health()
    version = client.version()
    assert version.interface == "0.0.1"
    assert version.agent == client.guest_details().version != ""


def test_it_tells_its_storage_handlers_and_that_it_is_not_init(client: AgentClient) -> None:
    details = client.guest_details()
    assert details.storage_handlers >= {"blk", "scsi", "virtio-fs", "ephemeral", "overlayfs"}
    assert not details.init_daemon


def test_its_metrics_have_the_memory_that_proc_has(client: AgentClient) -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert guest_memory(parse_metrics(client.metrics())).total_kib == int(total.split()[1])


@pytest.mark.parametrize("method", OTHERS, ids=[method.name for method in OTHERS])
def test_a_method_that_is_not_built_yet_is_unimplemented(client: AgentClient, method: MethodDescriptor) -> None:
    request, answer = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
    with pytest.raises(RpcError) as caught:
        client._call(method.name, request(), answer)
    assert (caught.value.code, caught.value.name) == (Code.UNIMPLEMENTED, "UNIMPLEMENTED")


def test_an_unknown_service_is_unimplemented(client: AgentClient) -> None:
    with pytest.raises(RpcError) as caught:
        client.connection.call("no.Such", "Thing", agent_pb2.GetMetricsRequest(), agent_pb2.Metrics, 5)
    assert caught.value.code == Code.UNIMPLEMENTED


def test_a_container_that_is_not_there_is_refused(client: AgentClient) -> None:
    for call in (client.start_container, client.wait_process, client.read_stdout, client.remove_container):
        with pytest.raises(RpcError):
            call("none")
    assert client.check_health()


def test_many_threads_share_one_connection(client: AgentClient) -> None:
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(client.check_health())) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 50


def test_two_connections_are_served_at_once(client: AgentClient, agent: tuple[Process, Path]) -> None:
    with wait_ready(partial(unix_connect, agent[1]), 5) as other:
        assert other.version() == client.version()


def test_it_has_no_interface_of_the_hosts(client: AgentClient) -> None:
    assert [interface.name for interface in client.list_interfaces()] == ["lo"]
