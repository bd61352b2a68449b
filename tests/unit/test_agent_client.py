"""The typed client: what goes over the wire for each method, and what comes of the answers."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guestforge.agent.answers import (
    ContainerStats,
    GuestDetails,
    MemoryUse,
    NetworkUse,
    Usage,
    Version,
    VolumeStats,
)
from guestforge.agent.client import AgentClient
from guestforge.agent.errors import AgentError, Code, ConnectionLostError, OutputLimitError, RpcError
from guestforge.agent.guest import CHUNK
from guestforge.agent.proto import agent_pb2, health_pb2, oci_pb2, types_pb2
from guestforge.agent.spec import process
from guestforge.agent.storage import Storage, block, virtio_fs
from guestforge.testing.fake_agent import FakeAgent, Program, talking_to
from guestforge.testing.ttrpc_server import Refusal

CALLS: dict[str, Callable[[AgentClient], object]] = {
    "Check": AgentClient.check_health,
    "Version": AgentClient.version,
    "GetGuestDetails": AgentClient.guest_details,
    "SetGuestDateTime": lambda client: client.set_guest_date_time(1),
    "ReseedRandomDev": lambda client: client.reseed_random(b"x"),
    "GetMetrics": AgentClient.metrics,
    "CreateSandbox": lambda client: client.create_sandbox("s"),
    "DestroySandbox": AgentClient.destroy_sandbox,
    "GetVolumeStats": lambda client: client.volume_stats("/v"),
    "UpdateEphemeralMounts": lambda client: client.update_ephemeral_mounts([]),
    "ResizeVolume": lambda client: client.resize_volume("/v"),
    "AddSwap": lambda client: client.add_swap([2, 1]),
    "AddSwapPath": lambda client: client.add_swap_path("/dev/vdb"),
    "SetPolicy": lambda client: client.set_policy("package agent_policy"),
    "RemoveStaleVirtiofsShareMounts": AgentClient.remove_stale_share_mounts,
    "CopyFile": lambda client: client.copy_file(b"", "/f"),
    "CreateContainer": lambda client: client.create_container("c", oci_pb2.Spec()),
    "StartContainer": lambda client: client.start_container("c"),
    "RemoveContainer": lambda client: client.remove_container("c"),
    "ExecProcess": lambda client: client.exec_process("c", "e", process(["true"])),
    "WaitProcess": lambda client: client.wait_process("c"),
    "SignalProcess": lambda client: client.signal_process("c"),
    "UpdateContainer": lambda client: client.update_container("c", oci_pb2.LinuxResources()),
    "StatsContainer": lambda client: client.stats_container("c"),
    "PauseContainer": lambda client: client.pause_container("c"),
    "ResumeContainer": lambda client: client.resume_container("c"),
    "GetOOMEvent": AgentClient.oom_event,
    "OnlineCPUMem": AgentClient.online,
    "ListInterfaces": AgentClient.list_interfaces,
    "UpdateInterface": lambda client: client.update_interface(types_pb2.Interface()),
    "ListRoutes": AgentClient.list_routes,
    "UpdateRoutes": lambda client: client.update_routes([]),
    "AddARPNeighbors": lambda client: client.add_neighbours([]),
    "TtyWinResize": lambda client: client.resize_terminal("c", 24, 80),
    "MemHotplugByProbe": lambda client: client.probe_memory([1 << 32]),
    "ReadStdout": lambda client: client.read_stdout("c"),
    "ReadStderr": lambda client: client.read_stderr("c"),
}


def only_request(call: Callable[[AgentClient], object], agent: FakeAgent | None = None) -> object:
    agent = agent or FakeAgent()
    with talking_to(agent) as client:
        call(client)
    ((_, request),) = agent.asked
    return request


@pytest.mark.parametrize("method", CALLS)
def test_each_method_is_asked_of_its_service_and_a_refusal_is_raised(method: str) -> None:
    agent = FakeAgent()
    agent.refusals[method] = Refusal(9, "not now")
    with talking_to(agent) as client, pytest.raises(RpcError, match=f"^{method}: FAILED_PRECONDITION: not now$"):
        CALLS[method](client)
    (request,) = agent.server.seen
    assert request.method == method
    assert request.service == ("grpc.Health" if method in ("Check", "Version") else "grpc.AgentService")
    assert request.timeout_nano > 0


@pytest.mark.parametrize("method", [method for method in CALLS if method != "DestroySandbox"])
def test_each_method_fails_when_the_connection_ends(method: str) -> None:
    agent = FakeAgent()
    agent.cut_at = method
    with talking_to(agent) as client, pytest.raises(ConnectionLostError, match=f"^{method}: "):
        CALLS[method](client)


def test_a_method_that_the_agent_lacks_is_unimplemented() -> None:
    with talking_to(FakeAgent()) as client, pytest.raises(RpcError) as caught:
        client._do("GetIPTables", agent_pb2.GetIPTablesRequest())
    assert caught.value.code == Code.UNIMPLEMENTED == 12


@pytest.mark.parametrize(("status", "serves"), [(0, False), (1, True), (2, False)])
def test_only_serving_is_healthy(status: health_pb2.HealthCheckResponse.ServingStatus.ValueType, serves: bool) -> None:
    agent = FakeAgent()
    agent.answers["Check"] = health_pb2.HealthCheckResponse(status=status)
    with talking_to(agent) as client:
        assert client.check_health() is serves


def test_version_and_details_are_plain_data_and_printable() -> None:
    agent = FakeAgent()
    agent.answers["Version"] = health_pb2.VersionCheckResponse(grpc_version="0.0.1", agent_version="1.2\x1b[2J")
    details = agent_pb2.AgentDetails(version="1.2", init_daemon=True, storage_handlers=["blk", "virtio-fs"])
    agent.answers["GetGuestDetails"] = agent_pb2.GuestDetailsResponse(
        mem_block_size_bytes=1 << 27, agent_details=details
    )
    with talking_to(agent) as client:
        assert client.version() == Version("0.0.1", "1.2 [2J")
        assert client.guest_details() == GuestDetails(
            "1.2", True, 1 << 27, False, frozenset({"blk", "virtio-fs"}), False, frozenset()
        )
    assert agent.requests("GetGuestDetails") == [
        agent_pb2.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True)
    ]


def test_stats_are_seconds_and_bytes() -> None:
    agent = FakeAgent()
    stats = agent_pb2.CgroupStats(
        cpu_stats=agent_pb2.CpuStats(
            cpu_usage=agent_pb2.CpuUsage(total_usage=1_500_000_000),
            throttling_data=agent_pb2.ThrottlingData(throttled_time=250_000_000),
        ),
        memory_stats=agent_pb2.MemoryStats(usage=agent_pb2.MemoryData(usage=4096, limit=1 << 25)),
        pids_stats=agent_pb2.PidsStats(current=2, limit=77),
    )
    network = [agent_pb2.NetworkStats(name="eth\x1b0", rx_bytes=7, tx_bytes=9)]
    agent.answers["StatsContainer"] = agent_pb2.StatsContainerResponse(cgroup_stats=stats, network_stats=network)
    with talking_to(agent) as client:
        found = client.stats_container("c")
        assert found == ContainerStats(1.5, 0.25, MemoryUse(4096, 1 << 25), 2, 77, {"eth 0": NetworkUse(7, 9)})
    with talking_to(FakeAgent()) as client:
        assert client.stats_container("c").memory is None


def test_limits_and_processors_are_asked_for_as_they_are_given() -> None:
    limits = oci_pb2.LinuxResources(Memory=oci_pb2.LinuxMemory(Limit=1 << 25))
    request = only_request(lambda client: client.update_container("c", limits))
    assert request == agent_pb2.UpdateContainerRequest(container_id="c", resources=limits)
    request = only_request(lambda client: client.online(2, wait=True, cpu_only=True))
    assert request == agent_pb2.OnlineCPUMemRequest(nb_cpus=2, wait=True, cpu_only=True)


def test_a_sandbox_is_created_with_its_storages() -> None:
    disk, share = block("02/01", "/run/disk", options=("ro",)), virtio_fs()
    request = only_request(
        lambda client: client.create_sandbox("box", hostname="h", dns=["nameserver 10.0.0.1"], storages=[disk, share])
    )
    assert request == agent_pb2.CreateSandboxRequest(
        sandbox_id="box",
        hostname="h",
        dns=["nameserver 10.0.0.1"],
        storages=[
            agent_pb2.Storage(driver="blk", source="02/01", fstype="ext4", options=["ro"], mount_point="/run/disk"),
            agent_pb2.Storage(
                driver="virtio-fs",
                source="kataShared",
                fstype="virtiofs",
                mount_point="/run/kata-containers/shared/containers/",
            ),
        ],
    )


def test_driver_options_of_a_storage_are_sent() -> None:
    storage = Storage("ephemeral", "tmpfs", "tmpfs", "/run/t", driver_options=("fsgid=5",))
    assert storage.message().driver_options == ["fsgid=5"]


def test_a_guest_that_is_gone_before_its_answer_has_destroyed_its_sandbox() -> None:
    agent = FakeAgent()
    agent.cut_at = "DestroySandbox"
    with talking_to(agent) as client:
        client.destroy_sandbox()
        with pytest.raises(ConnectionLostError):  # but not one that was gone before it was asked
            client.destroy_sandbox()


def test_bytes_and_inodes_of_a_volume_are_told_apart() -> None:
    agent = FakeAgent()
    usage = agent_pb2.VolumeUsage
    agent.answers["GetVolumeStats"] = agent_pb2.VolumeStatsResponse(
        usage=[
            usage(available=1, total=3, used=2, unit=usage.INODES),
            usage(available=10, total=30, used=20, unit=usage.BYTES),
        ]
    )
    with talking_to(agent) as client:
        assert client.volume_stats("/v") == VolumeStats(bytes=Usage(30, 20, 10), inodes=Usage(3, 2, 1))
        agent.answers["GetVolumeStats"] = agent_pb2.VolumeStatsResponse()
        assert client.volume_stats("/v") == VolumeStats(None, None)


def test_ephemeral_storages_are_updated_by_their_mount_points() -> None:
    storage = Storage("ephemeral", "tmpfs", "tmpfs", "/m", ("size=2m",))
    request = only_request(lambda client: client.update_ephemeral_mounts([storage]))
    assert request == agent_pb2.UpdateEphemeralMountsRequest(storages=[storage.message()])


def test_a_volume_grows_to_a_size_or_to_its_disk() -> None:
    request = only_request(lambda client: client.resize_volume("/v", 1 << 40))
    assert request == agent_pb2.ResizeVolumeRequest(volume_guest_path="/v", size=1 << 40)
    assert only_request(lambda client: client.resize_volume("/v")) == agent_pb2.ResizeVolumeRequest(
        volume_guest_path="/v"
    )


def test_swap_space_is_named_by_its_place_or_its_node() -> None:
    request = only_request(lambda client: client.add_swap([2, 17]))
    assert request == agent_pb2.AddSwapRequest(PCIPath=[2, 17])
    request = only_request(lambda client: client.add_swap_path("/dev/vdb"))
    assert request == agent_pb2.AddSwapPathRequest(path="/dev/vdb")


def test_a_policy_is_sent_as_it_is() -> None:
    request = only_request(lambda client: client.set_policy("package agent_policy\n"))
    assert request == agent_pb2.SetPolicyRequest(policy="package agent_policy\n")


def test_date_and_random_bytes_are_sent() -> None:
    assert only_request(lambda client: client.set_guest_date_time(5, 7)) == agent_pb2.SetGuestDateTimeRequest(
        Sec=5, Usec=7
    )
    assert only_request(lambda client: client.reseed_random(b"r")) == agent_pb2.ReseedRandomDevRequest(data=b"r")


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + CHUNK // 2])
@pytest.mark.parametrize("from_file", [True, False])
def test_a_file_is_copied_whole_in_chunks(tmp_path: Path, size: int, from_file: bool) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    agent = FakeAgent()
    with talking_to(agent) as client:
        source = tmp_path / "f" if from_file else content
        client.copy_file(source, "/run/x", mode=0o640, dir_mode=0o700, uid=1, gid=2)
    got = b""
    for _, request in agent.asked:
        assert isinstance(request, agent_pb2.CopyFileRequest)
        assert request.offset == len(got)
        got += request.data
        assert len(request.data) <= CHUNK
        request.ClearField("data")
        request.ClearField("offset")
        assert request == agent_pb2.CopyFileRequest(
            path="/run/x", file_size=size, file_mode=stat.S_IFREG | 0o640, dir_mode=0o700, uid=1, gid=2
        )
    assert got == content
    assert len(agent.asked) == max(1, -(-size // CHUNK))


def test_a_file_that_shrinks_under_the_copy_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (CHUNK + 10))
    agent = FakeAgent()
    with talking_to(agent) as client:
        do = client._do
        monkeypatch.setattr(client, "_do", lambda *args: (do(*args), path.write_bytes(b"x" * (CHUNK + 5))))
        with pytest.raises(AgentError, match="became shorter"):
            client.copy_file(path, "/run/x")


def test_a_container_is_created_with_its_id_as_the_first_processs() -> None:
    spec = oci_pb2.Spec(Version="1")
    request = only_request(lambda client: client.create_container("c", spec, storages=[virtio_fs("/m")]))
    assert request == agent_pb2.CreateContainerRequest(
        container_id="c", exec_id="c", OCI=spec, storages=[virtio_fs("/m").message()]
    )
    shared = only_request(lambda client: client.create_container("c", spec, shared_pid_namespace=True))
    assert shared == agent_pb2.CreateContainerRequest(container_id="c", exec_id="c", OCI=spec, sandbox_pidns=True)


def test_processes_are_named_by_container_and_exec_id() -> None:
    ids = {"container_id": "c", "exec_id": "e"}
    agent = FakeAgent(Program(status=3))
    program = process(["sh", "-c", "x"], env={"A": "b"}, cwd="/tmp", uid=5, gid=6)
    with talking_to(agent) as client:
        client.exec_process("c", "e", program)
        assert client.wait_process("c", "e") == 3
        client.signal_process("c", "e", 15)
        client.read_stdout("c", "e")
        client.remove_container("c", timeout=7)
    assert [request for _, request in agent.asked] == [
        agent_pb2.ExecProcessRequest(process=program, **ids),
        agent_pb2.WaitProcessRequest(**ids),
        agent_pb2.SignalProcessRequest(signal=15, **ids),
        agent_pb2.ReadStreamRequest(len=65536, **ids),
        agent_pb2.RemoveContainerRequest(container_id="c", timeout=7),
    ]
    assert (program.Args, program.Env, program.Cwd) == (["sh", "-c", "x"], ["A=b"], "/tmp")
    assert (program.User.UID, program.User.GID) == (5, 6)


@pytest.mark.parametrize("end", ["", "eof", "read meet eof", "read meet eof\n\nStack backtrace:\n 0: x"])
def test_a_stream_is_read_to_its_end_however_the_agent_says_that(end: str) -> None:
    agent = FakeAgent(Program(stdout=[b"one ", b"x" * 200_000], stderr=[b"two"], end=end))
    with talking_to(agent) as client:
        assert client.read_stdout("c") == b"one " + b"x" * 200_000
        assert client.read_stderr("c") == b"two"


def test_another_refusal_is_not_the_end_of_a_stream() -> None:
    agent = FakeAgent(Program(stdout=[b"x"], end="Invalid container id"))
    with talking_to(agent) as client, pytest.raises(RpcError, match="Invalid container id"):
        client.read_stdout("c")


def test_a_stream_has_a_limit() -> None:
    with talking_to(FakeAgent(Program(stdout=[b"x" * 100], stderr=[b"x" * 101]))) as client:
        assert len(client.read_stdout("c", limit=100)) == 100
        with pytest.raises(OutputLimitError, match="more than 100 bytes"):
            client.read_stderr("c", limit=100)


def test_a_streams_time_is_for_all_of_it() -> None:
    class Slow(list[bytes]):
        def pop(self, _: object = 0) -> bytes:
            time.sleep(0.05)
            return b"x"

    start = time.monotonic()
    with talking_to(FakeAgent(Program(stdout=Slow([b"x"])))) as client, pytest.raises(RpcError) as caught:
        client.read_stdout("c", timeout=0.3)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 2
