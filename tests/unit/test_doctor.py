"""The doctor: what is missing is told with its remedy, and is the exit code."""

import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest

from guestforge.arch import ARCHES, PROVEN, host
from guestforge.cli.doctor import exit_code, report, run_doctor
from guestforge.core.need import Need
from guestforge.core.run import find_tool
from guestforge.host import findings as module
from guestforge.host.findings import Finding, accelerator, disk, findings, installed_server, tools, virtio_fs
from guestforge.image import ext4
from guestforge.kernel.toolchain import kernel_needs
from guestforge.project.folder import Project
from guestforge.project.models import Settings
from guestforge.project.options import TargetOptions
from guestforge.rootfs import agent
from guestforge.sources import linux
from guestforge.vmm.accel import KvmState
from guestforge.vmm.needs import boot_needs
from guestforge.vmm.virtiofsd import Virtiofsd

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A directory that is the whole PATH; what is asked of it are names of programs to put there."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr("guestforge.core.environment.SYSTEM_PATHS", ())

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


def test_one_command_installs_all_that_is_missing(programs):
    programs("there")
    needs = [NEED, Need("there", tool="there"), Need("b-package", tool="b-tool"), Need("b-package", tool="c-tool")]
    last = report(list(tools("kernel", needs))).splitlines()[-1]
    assert last.endswith("apt-get install --no-install-recommends a-package b-package")


def test_no_command_where_nothing_is_missing():
    assert "install" not in report([Finding("disk", "cache", "missing", "1.0 GiB free", "a larger disk")])


def test_a_program_that_knows_another_option_is_asked_with_that(programs, tmp_path):
    programs("mke2fs")
    (tmp_path / "bin" / "mke2fs").write_text('#!/bin/sh\n[ "$1" = -V ] && echo mke2fs 1.47.0 >&2\n')
    (finding,) = tools("image", [Need("e2fsprogs", tool="mke2fs")])
    assert finding.found.endswith("mke2fs: mke2fs 1.47.0")


def test_a_program_that_does_not_answer_costs_little_time(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VERSION_LIMIT", 0.1)
    programs("a-tool")
    (tmp_path / "bin" / "a-tool").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    start = time.monotonic()
    (finding,) = tools("kernel", [NEED])
    assert finding.state == "ok"
    assert time.monotonic() - start < 10


@pytest.mark.usefixtures("programs")
def test_what_is_a_file_is_told_with_its_place(tmp_path):
    (tmp_path / "server").touch()
    (finding,) = tools("boot", [Need("a-package", tool="server", file=f"/nowhere/server:{tmp_path}/serv*")])
    assert finding.found == f"{tmp_path}/server, of a-package"


@pytest.fixture
def machine(programs, tmp_path, monkeypatch):
    """A machine on which everything is there, as the whole command sees it."""
    monkeypatch.setenv("GUESTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "kvm_state", lambda *_: KvmState(False, "no /dev/kvm"))
    monkeypatch.setattr(module, "debian_mirror", lambda: None)
    monkeypatch.setattr(module, "go_version", lambda: "1.0")
    monkeypatch.setattr(module, "find_virtiofsd", lambda: Virtiofsd(tmp_path, "Rust", "1.14.0"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 0, 99 * module.GIB))
    monkeypatch.setattr(module, "_file", lambda need: need.name)
    monkeypatch.setattr(module, "_version", lambda *_: "1.0")  # the tests above ask for it
    arch = host()
    needs = [*kernel_needs(arch), *agent.NEEDS, *ext4.NEEDS, *boot_needs(arch), *linux.NEEDS]
    files = {need.name for need in needs if "/" in need.name}
    monkeypatch.setattr(Need, "is_met", lambda need: need.name in files or bool(find_tool(need.tool)))
    for need in needs:
        if need.tool:
            programs(need.tool)
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_a_machine_that_has_everything_is_exit_code_0(capsys):
    assert run_doctor(TargetOptions()) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing that is needed is missing"


@pytest.mark.parametrize("tool", ["make", f"{host().cross_prefix}gcc", "debugfs", host().qemu, "apt-get"])
def test_each_tool_that_is_taken_away_is_told_with_its_remedy(machine, capsys, tool):
    (machine / "bin" / tool).unlink()
    assert run_doctor(TargetOptions()) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("missing")]
    assert f" {tool} " in line
    assert "-> " in line
    assert lines[-1].startswith("install all with: ")


def test_room_is_asked_for_each_architecture(machine, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 0, 5 * module.GIB))
    states = [
        next(finding.state for finding in findings(arches, Project(machine, Settings())) if finding.name == "cache")
        for arches in (PROVEN[:1], tuple(ARCHES.values()))
    ]
    assert states == ["ok", "missing"]


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
    finding = accelerator(host(), Project(tmp_path, Settings()))
    assert (finding.state, finding.found) == expected


def test_kvm_is_tried_with_the_kernel_that_was_built(programs, monkeypatch, tmp_path):
    programs(host().qemu)
    kernel = tmp_path / "output" / host().name / "minimal" / "kernel"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(b"")
    asked = []
    monkeypatch.setattr(module, "kvm_state", lambda *args: asked.append(args) or KvmState(True, ""))
    accelerator(host(), Project(tmp_path, Settings()))
    assert asked == [(host(), kernel)]


RUST = Virtiofsd(Path("/usr/libexec/virtiofsd"), "Rust", "1.14.0")


def test_the_installed_virtio_fs_server_is_told_with_those_whom_it_serves(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(module, "find_virtiofsd", lambda: RUST)
    finding = installed_server()
    assert finding.state == "ok"
    assert finding.found == "virtiofsd (Rust, 1.14.0) at /usr/libexec/virtiofsd; right for guests of x86_64"


def test_without_a_virtio_fs_server_there_is_our_own(monkeypatch):
    monkeypatch.setattr(module, "find_virtiofsd", lambda: None)
    finding = installed_server()
    assert (finding.state, exit_code([finding])) == ("note", 0)
    assert "our own" in finding.remedy


def test_guests_get_the_virtio_fs_server_that_speaks_their_binary_interface(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("guestforge.vmm.virtiofsd.find_virtiofsd", lambda _: RUST)
    assert virtio_fs(ARCHES["x86_64"]).found.startswith("virtiofsd (Rust, 1.14.0")
    assert "guestforge virtio-fs (byte order differs" in virtio_fs(ARCHES["s390x"]).found
    assert "big-endian guest, generic open flags" in virtio_fs(ARCHES["s390x"]).found


@pytest.mark.parametrize(("free", "state"), [(99, "missing"), (100, "ok")])
def test_a_disk_without_room_is_missing(tmp_path, monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 0, free))
    assert disk("cache", tmp_path / "not" / "there" / "yet", 100, "another").state == state


def test_everything_is_told_for_each_architecture(tmp_path):
    found = list(findings(tuple(ARCHES.values()), Project(tmp_path, Settings())))
    names = {finding.name for finding in found}
    for arch in ARCHES.values():
        assert {arch.qemu, f"{arch.cross_prefix}gcc", f"kvm for {arch.name}", f"virtio-fs for {arch.name}"} <= names
    assert {"python", "go", "debian mirror", "vsock", "cache", "output"} <= names
    assert all(finding.remedy for finding in found if finding.state == "missing")
