"""Every artifact of every proven architecture, booted and checked as a user's `./invoke check` does it."""

import itertools
import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from guestforge.arch import PPC64LE
from guestforge.check import live
from guestforge.check.checks import CHECKS
from guestforge.check.report import failed
from guestforge.check.run import check_artifact
from guestforge.core.files import digest_file
from guestforge.core.runtime import HOST
from guestforge.pipeline import Pipeline
from guestforge.project.options import ARTIFACTS, BuildOptions, CheckOptions
from guestforge.testing.runtimes import Noting
from guestforge.vmm.user import TRANSIENT

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]

# docs/checks.md: every key of report.json, and the types of its value
NUMBER = (int, float)
REPORT = {
    "schema": int, "arch": str, "guest": str, "artifact": str, "digests": dict, "accelerator": str,
    "accelerator_reason": str, "verdict": str, "storages": list, "checks": list, "phases": dict,
    "measurements": dict, "qemu": dict,
}  # fmt: skip
CHECK = {"name": str, "status": str, "seconds": NUMBER, "detail": str, "served_by": (str, type(None)), "excused": bool}
PHASES = dict.fromkeys(("qemu_start", "kernel_up", "agent_ready", "done"), NUMBER)
MEASUREMENTS = {
    "guest_memory_total_kib": int, "guest_memory_used_kib": int, "qemu_rss_kib": int, "qemu_pss_kib": int,
    "agent_boot_seconds": NUMBER,
}  # fmt: skip
QEMU = {"version": str, "argv": list, "reason": str, "untrusted": list, "under_tcg": list}


@pytest.fixture(scope="module", params=ARTIFACTS)
def boot(request, arch_row, tmp_path_factory):
    """A check through the pipeline, into an output directory of its own: the report, the directory, digests before."""
    output = tmp_path_factory.mktemp("output")
    one = Pipeline(arch_row, BuildOptions(output=output))
    files = (one.guest_artifacts().kernel, one.guest_artifacts().initrd, one.guest_artifacts().image)
    before = {path: digest_file(path) for path in files}
    out = one.output / "check" / request.param
    report = check_artifact(live.start, one.guest_artifacts(), request.param, out, CheckOptions(), runtime=HOST)
    return report, out, before


def test_every_check_passes(boot, booted):
    report, _, _ = boot
    booted(report)
    assert {result.name: (result.status, result.detail) for result in report.checks if result.status != "pass"} == {}
    assert [result.name for result in report.checks] == [check.name for check in CHECKS]
    assert report.verdict == "pass"
    assert failed([report]) is None


def test_every_program_of_a_check_is_started_by_its_runtime(built, booted, tmp_path, started_programs):
    runtime = Noting()
    options = CheckOptions(virtio_fs_server="builtin")
    with started_programs() as seen:
        booted(check_artifact(live.start, built("x86_64"), "initrd", tmp_path / "out", options, runtime=runtime))
    assert sorted(seen) == sorted(runtime.started)
    assert {"debugfs", "mke2fs", sys.executable} <= {*seen}


def test_report_is_as_documented(boot, arch_row):
    report, out, _ = boot
    written = json.loads((out / "report.json").read_text())
    assert_shape(written, REPORT)
    for check in written["checks"]:
        assert_shape(check, CHECK)
    assert_shape(written["phases"], PHASES)
    assert_shape(written["measurements"], MEASUREMENTS)
    assert_shape(written["qemu"], QEMU)
    assert (written["schema"], written["arch"], written["verdict"]) == (1, arch_row.name, "pass")
    assert {*written["digests"]} == {"kernel", {"initrd": "initrd.img", "image": "rootfs.img"}[written["artifact"]]}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in written["digests"].values())
    assert written["checks"] == json.loads(json.dumps(report.to_json()["checks"]))


def assert_shape(value, shape):
    assert list(value) == list(shape)
    assert {key: value[key] for key, kind in shape.items() if not isinstance(value[key], kind)} == {}


def test_junit_has_the_same_counts(boot):
    report, out, _ = boot
    suite = ET.parse(out / "junit.xml").getroot().find("testsuite")
    assert int(suite.get("tests")) == len(suite.findall("testcase")) == len(report.checks)
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "0")


def test_console_log_is_the_whole_console(boot, built, arch_row):
    _, out, _ = boot
    text = (out / "console.log").read_text(errors="replace")
    assert f"Linux version {built(arch_row.name).kernel_release} (guestforge@guestforge)" in text
    assert 'msg="agent ready"' in text
    assert text.index("Linux version") < text.index("agent ready") < text.index('msg="power off"')


def test_phases_follow_each_other(boot):
    phases = boot[0].phases
    assert 0 < phases.qemu_start <= phases.kernel_up < phases.agent_ready < phases.done


def test_measurements_are_sane(boot, built, arch_row):
    measured = boot[0].measurements
    memory = built(arch_row.name).memory_mib * 1024
    assert memory * 0.8 < measured.guest_memory_total_kib < memory
    # the aim is for pages of 4 KiB; one of 64 KiB takes more for every small thing
    assert 0 < measured.guest_memory_used_kib < (40 if arch_row is PPC64LE else 24) * 1024
    assert measured.guest_memory_used_kib < measured.qemu_pss_kib <= measured.qemu_rss_kib
    assert 0 < measured.agent_boot_seconds < boot[0].phases.agent_ready


def test_programs_behind_the_devices_are_named(boot):
    report = boot[0]
    assert report.served_by("virtio-blk") == "qemu"
    assert report.served_by("virtio-fs").startswith(("virtiofsd (", "guestforge virtio-fs ("))
    assert "vsock" in report.served_by("agent-ready")
    assert report.accelerator in {"kvm", "tcg"}
    assert report.accelerator_reason
    assert Path(report.qemu.argv[0]).name.startswith("qemu-system-")
    if os.geteuid() == 0:
        (user,) = (b for a, b in itertools.pairwise(report.qemu.argv) if a in {"-runas", "-run-with"})
        uid, gid = user.removeprefix("user=").split(":")
        assert int(uid) == int(gid) in TRANSIENT


def test_artifacts_are_as_before(boot):
    before = boot[2]
    assert {path: digest_file(path) for path in before} == before
