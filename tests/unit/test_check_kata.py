"""The checks of an image with a kata-agent: each thing in which that agent differs from ours was an obstacle once."""

import json
from dataclasses import replace

import pytest

from guestforge.agent.errors import RpcError
from guestforge.agent.proto import oci_pb2
from guestforge.agent.spec import container_spec, process
from guestforge.arch import ARCHES
from guestforge.check import fixtures
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.guest import Machine
from guestforge.check.live import machine_plan
from guestforge.check.report import failed
from guestforge.check.run import check_artifact
from guestforge.check.storages import prepare
from guestforge.core.runtime import HOST
from guestforge.project.options import CheckOptions
from guestforge.testing.kata_double import DRIVERS, KataAgent, KataGuest, kata_starter, talking_to
from guestforge.vmm.argv import disk_address
from guestforge.vmm.plan import Vsock

STORAGES = ("virtio-blk", "virtio-fs", "virtio-9p")
OURS = ("container", "isolation")  # are asked of our own agent alone


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr(fixtures, "MANY", 20)
    file = tmp_path / "probe"
    file.write_bytes(b"probe")
    return GuestArtifacts(ARCHES["x86_64"], "minimal", file, "6.12.1", file, file, file, own_agent=False)


@pytest.fixture
def check(artifacts, tmp_path):
    def run(agent, artifact="initrd", *, own_agent=False, **faults):
        guest = replace(artifacts, own_agent=own_agent)
        return check_artifact(
            kata_starter(agent, **faults), guest, artifact, tmp_path / "out", CheckOptions(), runtime=HOST
        )

    return run


def results(report):
    return {result.name: result for result in report.checks}


def statuses(report):
    return {name: result.status for name, result in results(report).items()}


@pytest.mark.parametrize("artifact", ["initrd", "image"])
def test_it_passes_every_check_that_it_can_pass(check, artifact):
    report = check(KataAgent(), artifact)
    assert failed([report]) is None
    assert report.verdict == "pass"
    assert {name for name, status in statuses(report).items() if status != "pass"} == {"virtio-9p", *OURS}


def test_storage_without_a_driver_is_skipped_and_the_skip_is_seen(check, tmp_path, capsys):
    check(KataAgent())
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (written["verdict"], written["storages"]) == ("pass", ["virtio-blk", "virtio-fs"])
    skipped, *others = [result for result in written["checks"] if result["excused"]]
    assert [other["name"] for other in others] == list(OURS)
    assert (skipped["name"], skipped["status"]) == ("virtio-9p", "skip")
    assert skipped["detail"] == "the agent has no storage driver 9p"
    junit = (tmp_path / "out" / "junit.xml").read_text()
    assert '<skipped message="the agent has no storage driver 9p" />' in junit
    assert 'skipped="3"' in junit
    assert '<property name="storages" value="virtio-blk virtio-fs" />' in junit
    printed = capsys.readouterr().err
    without = "without virtio-9p: the agent has no storage driver 9p"
    assert f"judged by the storages: virtio-blk, virtio-fs {without}" in printed
    assert f"s: pass {without}" in printed


@pytest.mark.parametrize("missing", [("blk",), ("virtio-fs",), ("blk", "virtio-fs")])
def test_a_verdict_is_reached_by_what_is_left(check, missing):
    report = check(KataAgent(drivers=[*(set(DRIVERS) - set(missing)), "9p"]))
    assert report.verdict == "pass"
    assert len(report.judged_by) == 3 - len(missing)
    assert len(report.left_out) == len(missing) + len(OURS)


def test_agent_without_any_driver_has_proven_nothing(check):
    report = check(KataAgent(drivers=["local"]))
    assert report.verdict == "fail"
    assert results(report)["agent-details"].status == "fail"


def test_of_our_own_agent_every_storage_is_asked(check):
    report = check(KataAgent(), own_agent=True)
    assert report.verdict == "fail"
    assert results(report)["agent-details"].detail == "the agent has no storage driver 9p"
    assert report.left_out == ()


@pytest.mark.parametrize(("driver", "name"), [("blk", "virtio-blk"), ("virtio-fs", "virtio-fs"), ("9p", "virtio-9p")])
def test_storage_that_is_refused_fails_alone_with_the_true_reason(check, driver, name):
    report = check(KataAgent(broken={driver: "wrong fs type"}, drivers=[*DRIVERS, "9p"]))
    assert {n for n, status in statuses(report).items() if status == "fail"} == {name}
    assert "wrong fs type" in results(report)[name].detail
    assert all(results(report)[other].status == "pass" for other in STORAGES if other != name)


def test_refused_sandbox_is_asked_for_once(check):
    agent = KataAgent(broken={"sandbox": "Read-only file system"})
    report = check(agent)
    assert len(agent.requests("CreateSandbox")) == 1
    for name in ("virtio-blk", "virtio-fs"):
        assert results(report)[name].status == "fail"
        assert "Read-only file system" in results(report)[name].detail


def test_each_storage_is_mounted_once_for_the_one_container_on_it(check):
    agent = KataAgent(drivers=[*DRIVERS, "9p"])
    check(agent)
    containers = agent.requests("CreateContainer")
    (sandbox,) = agent.requests("CreateSandbox")
    assert not sandbox.storages
    assert [len(container.storages) for container in containers] == [1, 1, 1]
    assert len(agent.requests("RemoveContainer")) == 3
    assert len(agent.requests("WriteStdin")) == 3 * 18
    assert agent.mounted == set()


def test_disk_that_is_not_unmounted_has_proven_nothing(check):
    class Forgetful(KataGuest):
        def release(self, *_):
            pass

    report = check(KataAgent(), guest=Forgetful)
    assert results(report)["virtio-blk"].detail.startswith("the guest left the file system mounted")
    assert statuses(report)["virtio-fs"] == "pass"


def test_storage_that_is_not_given_back_is_a_failed_check(check):
    class Stubborn(KataAgent):
        def RemoveContainer(self, request):
            if self._container(request).storages:
                self._container(replace_id(request))
            super().RemoveContainer(request)

    def replace_id(request):
        request.container_id = "none"
        return request

    report = check(Stubborn())
    assert statuses(report)["virtio-blk"] == statuses(report)["virtio-fs"] == "fail"
    assert "RemoveContainer" in results(report)["virtio-blk"].detail


@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
@pytest.mark.parametrize(("artifact", "node"), [("initrd", "/dev/vda"), ("image", "/dev/vdb")])
def test_disk_is_named_as_its_agent_takes_it(artifacts, arch, artifact, node, tmp_path):
    def named(own_agent):
        place = tmp_path / str(own_agent)
        place.mkdir()
        guest = replace(artifacts, arch=arch, own_agent=own_agent)
        storages = prepare(arch, artifacts.probe, place, HOST, by_node=not own_agent)
        machine = Machine(guest, artifact, CheckOptions(), storages, place / "log")
        plan, words = machine_plan(machine, "tcg", Vsock("builtin"))
        disk = words["virtio-blk"]
        return disk.driver, disk.source, len(plan.disks)

    assert named(False)[:2] == ("blk", node)
    driver, source, disks = named(True)
    assert (driver, source) == (arch.block_driver, disk_address(arch, disks - 1))


def test_process_can_join_a_container_of_our_specification():
    agent = KataAgent()
    agent.mounted.add("/root")
    with talking_to(agent) as client:
        spec = container_spec("c", "/root", process(["/bin/sh"]))
        client.create_container("c", spec)
        client.start_container("c")
        client.exec_process("c", "e", process(["/bin/true"]))
        spec.Linux.Namespaces.append(oci_pb2.LinuxNamespace(Type="pid"))  # as it was
        client.create_container("d", spec)
        with pytest.raises(RpcError, match="join pidns"):
            client.exec_process("d", "e", process(["/bin/true"]))
