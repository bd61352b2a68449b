import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from guestforge.check.junit import junit, write_junit
from guestforge.check.report import CheckResult, Measurements, Phases, Qemu, Report, failed, write_report
from guestforge.check.table import boot_line, table

GOLDEN = Path(__file__).parents[1] / "golden" / "check"

PASSED = CheckResult("kernel-up", "pass", 1.25, "Linux version 6.12.0", None)
SERVED = CheckResult("virtio-fs", "pass", 0.5, "1,048,576 bytes both ways", "virtiofsd 7.2 (C)")
PANIC = CheckResult(
    "agent-ready", "fail", 0.75, "the kernel panicked\n\x1b[31mKernel panic\x1b[0m - <no init>\x00 & more"
)
SKIPPED = CheckResult("poweroff", "skip", 0.0, "agent-ready did not pass")


def report(*checks: CheckResult) -> Report:
    return Report(
        arch="x86_64",
        guest="minimal",
        artifact="initrd",
        accelerator="tcg",
        accelerator_reason="/dev/kvm cannot run a guest",
        checks=checks,
        phases=Phases(0.1, 0.5, 1.5, 3.1),
        measurements=Measurements(guest_memory_used_kib=20000),
        qemu=Qemu("7.2.22", ("qemu-system-x86_64", "-nodefaults"), "installed", ("a kept translation",)),
    )


def test_report_has_the_documented_keys_in_their_order():
    written = report(PASSED, SERVED).to_json()
    assert list(written) == [
        "schema", "arch", "guest", "artifact", "digests", "accelerator", "accelerator_reason", "verdict", "storages",
        "checks", "phases", "measurements", "qemu",
    ]  # fmt: skip
    assert written["schema"] == 1
    assert list(written["checks"][0]) == ["name", "status", "seconds", "detail", "served_by", "excused"]
    assert list(written["phases"]) == ["qemu_start", "kernel_up", "agent_ready", "done"]
    assert list(written["qemu"]) == ["version", "argv", "reason", "untrusted", "under_tcg"]


def test_written_report_is_the_json(tmp_path):
    path = tmp_path / "report.json"
    write_report(report(PASSED, PANIC), path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(report(PASSED, PANIC).to_json()))
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_only_passed_checks_make_a_pass():
    assert report(PASSED, SERVED).verdict == "pass"
    assert report(PASSED, PANIC).verdict == "fail"
    assert report(PASSED, SKIPPED).verdict == "fail"
    assert report().verdict == "fail"


def test_verdict_goes_without_what_is_not_asked_and_not_without_the_rest():
    excused = dataclasses.replace(SKIPPED, excused=True)
    assert report(PASSED, excused).verdict == "pass"
    assert report(PASSED, excused, SKIPPED).verdict == "fail"
    assert report(excused).verdict == "fail"
    error = failed([report(PASSED, excused, dataclasses.replace(SKIPPED, name="other"))])
    assert error is not None
    assert "(other)" in error.message


def test_report_names_the_storages_that_were_judged():
    judged = dataclasses.replace(report(PASSED, SERVED, SKIPPED), storages=("virtio-fs", "poweroff"))
    assert judged.judged_by == ("virtio-fs",)
    assert judged.to_json()["storages"] == ("virtio-fs",)


def test_error_names_the_failed_check_and_shows_its_excerpt():
    image = dataclasses.replace(report(PASSED), artifact="image")
    error = failed([image, report(PASSED, PANIC, SKIPPED)])
    assert error is not None
    assert error.exit_code == 3
    assert error.message == "boot check failed: x86_64 initrd (agent-ready)"
    assert "the kernel panicked" in error.report()
    assert "Kernel panic" in error.report()
    assert "poweroff" not in error.report()


def test_no_error_when_all_passed():
    assert failed([report(PASSED), report(SERVED)]) is None


def test_skipped_check_is_an_error_by_itself():
    error = failed([report(PASSED, SKIPPED)])
    assert error is not None
    assert "poweroff" in error.message


def test_junit_matches_the_golden_file():
    assert junit(report(PASSED, SERVED, PANIC, SKIPPED)) == (GOLDEN / "junit.xml").read_bytes()


def test_junit_is_written_whole(tmp_path):
    write_junit(report(PASSED), tmp_path / "junit.xml")
    assert (tmp_path / "junit.xml").read_bytes() == junit(report(PASSED))


@given(st.text(st.characters(codec=None)))
def test_junit_is_xml_whatever_a_guest_printed(text):
    suite = ET.fromstring(junit(report(CheckResult(text, "fail", 1.0, text, text))))[0]
    assert suite.get("failures") == "1"
    assert suite.find("testcase/failure") is not None


def test_table_has_a_row_a_check_and_the_machine():
    text = table(report(PASSED, SERVED, PANIC, SKIPPED))
    rows = text.splitlines()
    assert rows[0].split() == ["check", "status", "seconds", "detail", "served", "by"]
    assert [row.split()[:2] for row in rows[2:6]] == [
        ["kernel-up", "pass"],
        ["virtio-fs", "pass"],
        ["agent-ready", "fail"],
        ["poweroff", "skip"],
    ]
    assert "accelerator: tcg (/dev/kvm cannot run a guest)" in rows
    assert "virtio-fs server: virtiofsd 7.2 (C)" in rows
    assert "Kernel panic" not in text


def test_table_never_steers_the_terminal():
    text = table(report(CheckResult("a", "fail", 0.0, "\x1b[2J\u202e" + "x" * 200)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J" in text


def test_boot_line_tells_it_all():
    assert boot_line(report(PASSED, SERVED)) == (
        "boot: x86_64 initrd accelerator=tcg (/dev/kvm cannot run a guest) virtio-fs=virtiofsd 7.2 (C) 3.1 s: pass"
    )
