"""Each thing that a check claims to prove, broken in a real guest: that check fails, and no other."""

import re
import shutil
from dataclasses import replace

import pytest
from rig import Faults

from guestforge.arch import ARCHES, PPC64LE, S390X, X86_64
from guestforge.check import live
from guestforge.check.checks import CHECKS
from guestforge.image.initrd_step import INITRD, initrd_step
from guestforge.project.layout import AGENT_SOURCES
from guestforge.rootfs.agent import AGENT, PROBE, program_step
from guestforge.rootfs.parts import Parts
from guestforge.vmm import machine as machine_module
from guestforge.vmm import virtiofs
from guestforge.vmm.virtiofsd import why_not

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]
# One that is the host's, one of other flags, one of the other byte order.
MUTATED = [X86_64, PPC64LE, S390X]
each = pytest.mark.parametrize("arch", MUTATED, ids=lambda arch: arch.name)


def assert_only(outcome, *checks):
    """These checks failed, and all others passed, but for what needs them while the guest runs."""
    skipped = {"container"} if "virtio-fs" in checks else set()
    expected = {check.name: "fail" if check.name in checks else "pass" for check in CHECKS}
    assert outcome.statuses == expected | dict.fromkeys(skipped, "skip")
    return {result.name: result.detail for result in outcome.report.checks if result.status == "fail"}


def serve_with(monkeypatch, change):
    """Have the builtin server's command line changed."""
    real = virtiofs.virtiofs_argv
    monkeypatch.setattr(machine_module, "virtiofs_argv", lambda *args: change(real(*args)))


@each
@pytest.mark.parametrize("check", ["virtio-fs", "virtio-9p"])
def test_share_of_another_tag_fails_its_check(rig, arch, check, monkeypatch):
    real = live.machine_plan

    def plan(*args):
        made, words = real(*args)
        shares = tuple(replace(share, tag="another") if share.device == check else share for share in made.shares)
        return replace(made, shares=shares), words

    monkeypatch.setattr(live, "machine_plan", plan)
    outcome = rig.check(arch.name, virtio_fs_server="builtin")
    assert "the agent refused a container with it" in assert_only(outcome, check)[check]


@each
def test_share_that_can_only_be_read_fails_its_check(rig, arch, monkeypatch):
    serve_with(monkeypatch, lambda argv: [*argv, "--read-only"])
    outcome = rig.check(arch.name, virtio_fs_server="builtin")
    assert "read-only file system" in assert_only(outcome, "virtio-fs")["virtio-fs"].lower()


@each
def test_flags_taken_for_another_architectures_fail_the_check(rig, arch, monkeypatch):
    """What our server translates: with the other family's table a guest's O_LARGEFILE is O_DIRECTORY or O_NOFOLLOW."""
    other = X86_64 if arch is PPC64LE else PPC64LE
    serve_with(
        monkeypatch,
        lambda argv: [f"--guest-arch={other.name}" if word.startswith("--guest-arch") else word for word in argv],
    )
    assert_only(rig.check(arch.name, virtio_fs_server="builtin"), "virtio-fs")


@pytest.mark.parametrize("arch", [arch for arch in ARCHES.values() if why_not(arch)], ids=lambda arch: arch.name)
def test_server_that_takes_a_guest_for_the_host_fails_the_check(rig, arch):
    """The distribution's, for which it was that ours was written."""
    outcome = rig.check(arch.name, virtio_fs_server="virtiofsd")
    assert_only(outcome, "virtio-fs")
    assert "differ" in outcome.report.served_by("virtio-fs")


def changed_sources(directory, file, changes):
    """Return a copy of our Go sources with parts of a file changed."""
    sources = directory / "agent"
    shutil.copytree(AGENT_SOURCES, sources)
    place = sources / file
    text = place.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    place.write_text(text)
    return sources


@pytest.fixture
def changed_agent(pipeline, tmp_path):
    """Returns an initrd with the real agent, built with parts of its table of storage drivers changed."""

    def build(arch, changes):
        sources = changed_sources(tmp_path, "internal/storage/drivers.go", changes)
        one = pipeline(arch.name)
        parts = Parts(program_step(one.store, arch, AGENT, one.jobs, sources))
        return one.entry(initrd_step(arch, one.steps.rootfs, parts, one.steps.kernel)).file(INITRD)

    return build


NO_9P = {'"9p":        plan9,': ""}
# It takes a disk by its node alone, as a kata-agent does one that was there before it.
BY_NODE = {"disk(device.NodeOrPCI)": "disk(device.Node)", '"blk-ccw":   disk(device.CCW),': ""}


@each
def test_agent_without_a_driver_fails_its_details(rig, arch, changed_agent):
    outcome = rig.check(arch.name, initrd=changed_agent(arch, NO_9P))
    assert outcome.failures == ["agent-details"]
    assert "no storage driver 9p" in outcome.error.report()
    assert {outcome.statuses[name] for name in ("virtio-blk", "virtio-fs", "virtio-9p")} == {"skip"}


@each
def test_another_agent_is_judged_by_what_it_serves(rig, arch, changed_agent):
    outcome = rig.check(arch.name, initrd=changed_agent(arch, NO_9P | BY_NODE), own_agent=False)
    assert outcome.report.verdict == "pass"
    assert outcome.report.judged_by == ("virtio-blk", "virtio-fs")
    assert [result.name for result in outcome.report.left_out] == ["virtio-9p", "container", "isolation"]


@each
def test_disk_that_loses_what_was_written_fails_its_check(rig, arch):
    """The guest's writes go to a copy: it sees them, and the host's disk never does."""
    copies = []

    def copied(machine):
        disk = machine.place("virtio-blk")
        copies.append(disk.with_name("copy"))
        shutil.copyfile(disk, copies[0])
        storages = (
            replace(storage, place=copies[0]) if storage.place == disk else storage for storage in machine.storages
        )
        return replace(machine, storages=tuple(storages))

    outcome = rig.check(arch.name, faults=Faults(before_start=copied))
    assert "after the guest was off" in assert_only(outcome, "virtio-blk")["virtio-blk"]
    assert copies


ANSWER = "if err := answers.Encode(said); err != nil {"
# What the probe does wrong on one of the storages, at the step that renames, and what the check says of that.
LIES = {
    "an answer left out": ("if at(wanted) { continue };", "ReadStdout"),
    "an answer twice": ("if at(wanted) { answers.Encode(said) };", "`probe unlink .*, and what was answered is step"),
    "another step's": (
        'if at(wanted) { said["id"] = wanted.ID + 1 };',
        "`probe rename .*, and what was answered is step",
    ),
    "dead in a step": ("if at(wanted) { os.Exit(3) };", "`probe rename .* ended with exit code 3 in the guest"),
    "dead between two": (
        "if at(wanted) { answers.Encode(said); os.Exit(3) };",
        "`probe unlink .* ended with exit code 3 in the guest",
    ),
}
AT = """
// at tells the step that renames, on virtio-9p.
func at(wanted request) bool {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	return len(wanted.Args) > 0 && wanted.Args[0] == "rename" && strings.Contains(string(mounts), " / 9p ")
}

// serve answers"""


@pytest.mark.parametrize("lie", LIES)
def test_a_probe_that_breaks_the_talk_fails_its_check(rig, pipeline, tmp_path, lie):
    changed, message = LIES[lie]
    changes = {ANSWER: f"{changed} {ANSWER}", "\n// serve answers": AT, '\t"strconv"\n': '\t"strconv"\n\t"strings"\n'}
    sources = changed_sources(tmp_path, "cmd/probe/main.go", changes)
    one = pipeline("x86_64")
    probe = one.entry(program_step(one.store, X86_64, PROBE, one.jobs, sources)).file(PROBE)
    outcome = rig.check("x86_64", probe=probe, timeout=6)
    assert re.search(message, assert_only(outcome, "virtio-9p")["virtio-9p"])
