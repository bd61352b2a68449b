"""A whole check, with a double in the guest's place: which fault fails which check, and what is written."""

import errno
import json
import time

import pytest

from guestforge.arch import ARCHES
from guestforge.check import fixtures
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.engine import CheckFailure
from guestforge.check.report import failed
from guestforge.check.run import check_artifact
from guestforge.core.errors import BuildError, UserError
from guestforge.core.runtime import HOST
from guestforge.project.options import CheckOptions
from guestforge.testing.guest_double import ended, starter


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.setattr(fixtures, "MANY", 20)
    probe = tmp_path / "probe"
    probe.write_bytes(b"probe")
    artifacts = GuestArtifacts(ARCHES["x86_64"], "minimal", probe, "6.12.1", probe, probe, probe)

    def run(**faults):
        out = tmp_path / "check" / "initrd"
        return check_artifact(starter(**faults), artifacts, "initrd", out, CheckOptions(), runtime=HOST)

    return run


def statuses(report):
    return {result.name: result.status for result in report.checks}


def failures(report):
    return [result.name for result in report.checks if result.status == "fail"]


def detail(report, name):
    return next(result.detail for result in report.checks if result.name == name)


def test_true_guest_passes_every_check(check):
    report = check()
    assert failed([report]) is None
    assert list(statuses(report)) == [
        "kernel-up", "agent-ready", "agent-details", "virtio-blk", "virtio-fs", "virtio-9p", "container",
        "isolation", "poweroff", "console-clean",
    ]  # fmt: skip
    assert report.served_by("virtio-fs") == "double"
    assert report.phases.done is not None
    assert report.measurements.guest_memory_used_kib == 1


def test_files_are_written(check, tmp_path):
    check()
    out = tmp_path / "check" / "initrd"
    assert sorted(path.name for path in out.iterdir()) == ["console.log", "junit.xml", "report.json"]
    assert json.loads((out / "report.json").read_text())["verdict"] == "pass"
    assert "Linux version" in (out / "console.log").read_text()


def test_report_of_before_is_gone_when_a_run_cannot_begin(check, tmp_path):
    check()
    with pytest.raises(UserError):
        check(start_error=UserError("no such accelerator"))
    assert list((tmp_path / "check" / "initrd").iterdir()) == []


def test_table_and_boot_line_are_printed(check, capsys):
    check()
    printed = capsys.readouterr().err
    assert "virtio-blk" in printed
    assert "boot: x86_64 initrd accelerator=tcg (a double) virtio-fs=double" in printed


@pytest.mark.parametrize(
    ("faults", "culprits"),
    [
        ({"console": ["Linux version 6.12.11 (x)"]}, ["kernel-up"]),
        ({"console": []}, ["kernel-up"]),
        ({"console": ["Linux version 6.12.1 (x)", "hung"]}, ["agent-ready"]),
        ({"console": ["Linux version 6.12.1 (x)", "details"], "refuses": ("blk",)}, ["agent-details"]),
        ({"console": ["Linux version 6.12.1 (x)", "WARNING: at x"]}, ["console-clean"]),
        ({"refuses": ("virtio-fs",)}, ["virtio-fs"]),
        ({"refuses": ("blk",)}, ["virtio-blk"]),
        ({"refuses": ("blk", "virtio-fs")}, ["virtio-blk", "virtio-fs"]),
        ({"refuses": ("9p",)}, ["virtio-9p"]),
        ({"lies": {("read", "/data/nonce"): {"sha256": "0" * 64}}}, ["virtio-blk", "virtio-fs", "virtio-9p"]),
        ({"forgets": ("rename",)}, ["virtio-blk", "virtio-fs", "virtio-9p"]),
        ({"loses": "out"}, ["virtio-blk"]),
        ({"start_error": ended("qemu-missing")}, ["kernel-up"]),
        ({"at": {"wait_console": ended("qemu-exited")}}, ["kernel-up"]),
        ({"at": {"wait_serving": ended("panic")}}, ["agent-ready"]),
        ({"at": {"run_probe virtio-fs": ended("virtiofs-died")}}, ["virtio-fs"]),
        ({"at": {"run_probe virtio-blk": ended("virtiofs-died")}}, ["virtio-fs"]),
        ({"at": {"run_probe virtio-blk": ended("warning")}}, ["console-clean"]),
        ({"at": {"run_probe virtio-blk": ended("oops")}}, ["virtio-blk"]),
        ({"at": {"drive containers": CheckFailure("no such verb")}}, ["container"]),
        ({"at": {"drive isolation": CheckFailure("a way out")}}, ["isolation"]),
        ({"at": {"drive isolation": ended("panic")}}, ["isolation"]),
        ({"at": {"power_off": ended("hang")}}, ["poweroff"]),
    ],
)
def test_fault_fails_the_right_check_alone(check, faults, culprits):
    report = check(**faults)
    assert failures(report) == culprits
    assert report.verdict == "fail"
    assert all(f"({', '.join(culprits)})" in str(error) for error in [failed([report])])


def test_refused_storage_shows_the_agents_reason(check):
    assert "no such device for blk" in detail(check(refuses=("blk",)), "virtio-blk")


def test_end_of_the_run_shows_its_excerpt_and_skips_the_rest(check):
    report = check(at={"wait_serving": ended("panic")})
    assert detail(report, "agent-ready") == "the panic\nan excerpt"
    assert statuses(report)["poweroff"] == "skip"
    assert detail(report, "virtio-fs") == "the run was ended by panic: the panic"


def test_disk_that_is_left_mounted_has_proven_nothing(check, monkeypatch):
    monkeypatch.setattr("guestforge.check.hostview.Ext4Disk.needs_recovery", lambda _: True)
    assert failures(check()) == ["virtio-blk"]


def test_disk_that_debugfs_cannot_finish_is_a_failed_check(check, monkeypatch):
    monkeypatch.setattr("guestforge.image.readback.TIMEOUT", 0.0)
    report = check()
    assert failures(report) == ["virtio-blk"]
    assert "debugfs did not finish" in detail(report, "virtio-blk")


def test_nothing_is_left_in_the_temporary_directory(check, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    check()
    check(at={"wait_serving": ended("panic")})
    assert list(scratch.iterdir()) == []


def test_full_disk_under_the_report_is_a_clear_error(check, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("guestforge.check.run.write_report", full)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        check()
    assert "give --output" in caught.value.hint


def test_full_disk_under_the_shares_is_a_clear_error(check, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fixtures, "write_directory", full)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        check()
    assert "set TMPDIR to" in caught.value.hint


def test_guest_mounts_no_share_before_it_is_filled(check, monkeypatch):
    write = fixtures.write_directory

    def slowly(tree, place):
        time.sleep(0.3)
        write(tree, place)

    monkeypatch.setattr(fixtures, "write_directory", slowly)
    assert failed([check()]) is None
