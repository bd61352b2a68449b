"""Running a program in a container: both streams, its status, and no container left behind."""

import threading
import time

import pytest

from guestforge.agent.container import Result, run_container
from guestforge.agent.errors import AgentError, Code, ConnectionLostError, OutputLimitError, RpcError
from guestforge.agent.proto import agent_pb2, oci_pb2
from guestforge.agent.spec import container_spec, process
from guestforge.agent.storage import virtio_fs
from guestforge.testing.fake_agent import FakeAgent, Program, talking_to
from guestforge.testing.ttrpc_server import Refusal


def run(agent: FakeAgent, timeout: float = 5.0, limit: int = 1000) -> Result:
    before = threading.active_count()
    try:
        with talking_to(agent) as client:
            try:
                return run_container(client, "c", "/root", ["/probe", "x"], timeout=timeout, output_limit=limit)
            finally:
                assert "stream-reader" not in [thread.name for thread in threading.enumerate()]
    finally:
        assert threading.active_count() == before


def test_a_program_runs_from_creation_to_removal() -> None:
    agent = FakeAgent(Program(stdout=[b"out"], stderr=[b"err", b"or"], status=7))
    assert run(agent) == Result(7, b"out", b"error")
    assert agent.methods[:2] == ["CreateContainer", "StartContainer"]
    assert sorted(agent.methods[2:-2]) == ["ReadStderr"] * 3 + ["ReadStdout"] * 2
    assert agent.methods[-2:] == ["WaitProcess", "RemoveContainer"]


def test_a_program_that_needs_both_streams_read_at_once_ends() -> None:
    agent = FakeAgent(Program(stdout=[b"late"], stderr=[b"x" * 300], stderr_first=True))
    assert run(agent) == Result(0, b"late", b"x" * 300)


@pytest.mark.parametrize("method", ["StartContainer", "ReadStdout", "ReadStderr", "WaitProcess"])
def test_a_refusal_on_the_way_is_told_and_the_container_removed(method: str) -> None:
    agent = FakeAgent(Program(hangs=method.startswith("Read")))
    agent.refusals[method] = Refusal(13, "no such luck")
    with pytest.raises(RpcError, match=f"^{method}: INTERNAL: no such luck$"):
        run(agent)
    assert agent.methods[-1] == "RemoveContainer"


def test_a_container_that_was_not_created_is_not_removed() -> None:
    agent = FakeAgent()
    agent.refusals["CreateContainer"] = Refusal(3, "bad spec")
    with pytest.raises(RpcError, match="bad spec"):
        run(agent)
    assert agent.methods == ["CreateContainer"]


def test_a_removal_that_fails_is_told_but_does_not_hide_an_earlier_error() -> None:
    agent = FakeAgent()
    agent.refusals["RemoveContainer"] = Refusal(16, "busy")
    with pytest.raises(RpcError, match="busy"):
        run(agent)
    agent.refusals["StartContainer"] = Refusal(13, "first")
    with pytest.raises(RpcError, match="first"):
        run(agent)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_writes_too_much_is_killed_and_removed(stream: str) -> None:
    agent = FakeAgent(Program(hangs=True, **{stream: [b"x" * 2000]}))
    start = time.monotonic()
    with pytest.raises(OutputLimitError):
        run(agent, timeout=60)
    assert time.monotonic() - start < 2
    (signal,) = agent.requests("SignalProcess")
    assert signal == agent_pb2.SignalProcessRequest(container_id="c", signal=9)
    assert agent.methods[-1] == "RemoveContainer"


def test_a_program_that_hangs_is_killed_at_the_limit_and_removed() -> None:
    agent = FakeAgent(Program(hangs=True))
    start = time.monotonic()
    with pytest.raises(RpcError) as caught:
        run(agent, timeout=0.2)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 2
    assert "SignalProcess" in agent.methods
    assert agent.methods[-1] == "RemoveContainer"


def test_a_guest_that_neither_kills_nor_removes_leaves_no_thread_of_ours() -> None:
    agent = FakeAgent(Program(hangs=True))
    agent.refusals |= {method: Refusal(13, "no") for method in ("ReadStdout", "SignalProcess", "RemoveContainer")}
    with pytest.raises(RpcError, match="ReadStdout"):
        run(agent, timeout=0.3)


@pytest.mark.parametrize("method", ["CreateContainer", "StartContainer", "ReadStdout", "ReadStderr", "WaitProcess"])
def test_a_guest_that_dies_ends_it_at_once(method: str) -> None:
    agent = FakeAgent(Program(hangs=method.startswith("Read")))
    agent.cut_at = method
    start = time.monotonic()
    with pytest.raises(ConnectionLostError):
        run(agent, timeout=60)
    assert time.monotonic() - start < 2


def test_a_containers_own_storages_are_sent() -> None:
    agent = FakeAgent()
    with talking_to(agent) as client:
        run_container(client, "c", "/root", ["x"], storages=[virtio_fs("/m")])
    (request,) = agent.requests("CreateContainer")
    assert isinstance(request, agent_pb2.CreateContainerRequest)
    assert list(request.storages) == [virtio_fs("/m").message()]


# The specification


def test_a_specification_has_what_an_ordinary_container_has() -> None:
    spec = container_spec("c", "/run/root", process(["/bin/x", "y"]), readonly=True, hostname="h")
    assert spec.Root == oci_pb2.Root(Path="/run/root", Readonly=True)
    assert spec.Hostname == "h"
    assert [mount.destination for mount in spec.Mounts] == [
        "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys",
    ]  # fmt: skip
    assert {(space.Type, space.Path) for space in spec.Linux.Namespaces} == {
        ("mount", ""),
        ("ipc", ""),
        ("uts", ""),
    }  # fmt: skip - no pid: an agent adds that one
    assert list(spec.Process.Args) == ["/bin/x", "y"]
    assert spec.Process.Cwd == "/"
    assert list(spec.Process.Env) == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert spec.Linux.CgroupsPath == "/guestforge/c"


def test_capabilities_are_limited_and_not_inheritable() -> None:
    capabilities = process(["x"]).Capabilities
    assert capabilities.Bounding == capabilities.Effective == capabilities.Permitted
    assert len(capabilities.Bounding) == 14
    assert "CAP_SYS_ADMIN" not in capabilities.Bounding
    assert not capabilities.Inheritable and not capabilities.Ambient


def test_errors_of_a_guest_end_a_run_as_a_failed_check() -> None:
    assert AgentError("x").exit_code == 3
