"""The doctor: what is missing is told with its remedy, and is the exit code."""

import shutil
from collections import namedtuple

import pytest

from guestforge.arch import ARCHES, host
from guestforge.host import findings as module
from guestforge.host.doctor import exit_code, report
from guestforge.host.findings import Finding, accelerator, disk, findings, tools, virtio_fs
from guestforge.host.packages import Need
from guestforge.vmm.accel import KvmState


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A directory that is the whole PATH; what is asked of it are names of programs to put there."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr("guestforge.run.SYSTEM_PATHS", ())

    def put(name, says="1.2.3"):
        (directory / name).write_text(f"#!/bin/sh\necho '{name} {says}'\n")
        (directory / name).chmod(0o755)

    return put


NEED = Need("a-package", tool="a-tool")


@pytest.mark.usefixtures("programs")
def test_a_missing_tool_is_told_with_the_command_that_installs_it():
    (finding,) = tools("kernel", [NEED])
    assert finding.state == "missing"
    assert "apt-get install --no-install-recommends a-package" in finding.remedy
    assert finding.remedy in report([finding])
    assert exit_code([finding]) == 1


def test_a_tool_that_is_there_is_told_with_its_version(programs):
    programs("a-tool")
    (finding,) = tools("kernel", [NEED, NEED])
    assert (finding.state, "a-tool 1.2.3" in finding.found) == ("ok", True)
    assert exit_code([finding]) == 0


def test_a_tool_that_tells_no_version_is_there_all_the_same(programs, tmp_path):
    programs("a-tool")
    (tmp_path / "bin" / "a-tool").write_text("#!/bin/sh\nexit 3\n")
    (finding,) = tools("kernel", [NEED])
    assert (finding.state, finding.found) == ("ok", str(tmp_path / "bin" / "a-tool"))


def test_notes_are_no_failure():
    assert exit_code([Finding("boot", "kvm", "note", "not usable")]) == 0


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (KvmState(True, "a kernel ran"), ("ok", "a kernel ran")),
        (KvmState(False, "no MSR"), ("note", "not usable: no MSR")),
        (KvmState(None, "only a kernel would prove it"), ("note", "only a kernel would prove it")),
    ],
)
def test_kvm_is_what_was_tried_and_not_what_can_be_opened(programs, monkeypatch, tmp_path, state, expected):
    programs(host().qemu)
    monkeypatch.setattr(module, "kvm_state", lambda *_: state)
    finding = accelerator(host(), tmp_path)
    assert (finding.state, finding.found) == expected


def test_kvm_is_tried_with_the_kernel_that_was_built(programs, monkeypatch, tmp_path):
    programs(host().qemu)
    kernel = tmp_path / host().name / "minimal" / "kernel"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(b"")
    asked = []
    monkeypatch.setattr(module, "kvm_state", lambda *args: asked.append(args) or KvmState(True, ""))
    accelerator(host(), tmp_path)
    assert asked == [(host(), kernel)]


def test_missing_virtio_fs_server_has_a_remedy(monkeypatch):
    monkeypatch.setattr(module, "find_virtiofsd", lambda: None)
    finding = virtio_fs(host())
    assert finding.state == "missing"
    assert "apt-get install" in finding.remedy


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "state"), [(99, "missing"), (100, "ok")])
def test_a_disk_without_room_is_missing(tmp_path, monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 0, free))
    assert disk("cache", tmp_path / "not" / "there" / "yet", 100, "another").state == state


def test_everything_is_told_for_each_architecture(tmp_path):
    found = list(findings(tuple(ARCHES.values()), tmp_path))
    names = {finding.name for finding in found}
    for arch in ARCHES.values():
        assert {arch.qemu, f"{arch.cross_prefix}gcc", f"kvm for {arch.name}", f"virtio-fs for {arch.name}"} <= names
    assert {"python", "go", "debian mirror", "vsock", "cache", "output"} <= names
    assert all(finding.remedy for finding in found if finding.state == "missing")
