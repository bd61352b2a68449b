"""Each thing that a check claims to prove, broken in a real guest: that check fails, and no other."""

import re
import shutil
from dataclasses import replace

import pytest
from changed import changed_initrd, changed_sources
from rig import TABLE, Faults

from guestforge.arch import ARCHES, PPC64LE, S390X, X86_64
from guestforge.check import live
from guestforge.check.checks import CHECKS
from guestforge.rootfs.agent import PROBE, program_step
from guestforge.vmm import machine as machine_module
from guestforge.vmm import virtiofs
from guestforge.vmm.virtiofsd import why_not

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]
# One that is the host's, one of other flags, one of the other byte order.
MUTATED = [X86_64, PPC64LE, S390X]
each = pytest.mark.parametrize("arch", MUTATED, ids=lambda arch: arch.name)


def assert_only(outcome, *checks):
    """These checks failed and all others passed."""
    expected = {check.name: "fail" if check.name in checks else "pass" for check in TABLE}
    assert outcome.statuses == expected
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


DRIVERS = "internal/storage/drivers.go"
NO_9P = {'"9p":        plan9,': ""}
# It takes a disk by its node alone, as a kata-agent does one that was there before it.
BY_NODE = {"disk(device.NodeOrPCI)": "disk(device.Node)", '"blk-ccw":   disk(device.CCW),': ""}


@each
def test_agent_without_a_driver_fails_its_details(rig, arch, pipeline, tmp_path):
    outcome = rig.check(arch.name, initrd=changed_initrd(pipeline(arch.name), tmp_path, DRIVERS, NO_9P))
    assert outcome.failures == ["agent-details"]
    assert "no storage driver 9p" in outcome.error.report()
    assert {outcome.statuses[name] for name in ("virtio-blk", "virtio-fs", "virtio-9p")} == {"skip"}


@each
def test_another_agent_is_judged_by_what_it_serves(rig, arch, pipeline, tmp_path):
    initrd = changed_initrd(pipeline(arch.name), tmp_path, DRIVERS, NO_9P | BY_NODE)
    outcome = rig.check(arch.name, initrd=initrd, own_agent=False)
    assert outcome.report.verdict == "pass"
    assert outcome.report.judged_by == ("virtio-blk", "virtio-fs")
    assert [result.name for result in outcome.report.left_out] == ["virtio-9p"]


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
    changes = {ANSWER: f"{changed} {ANSWER}", "\n// serve answers": AT}
    sources = changed_sources(tmp_path, "cmd/probe/main.go", changes)
    one = pipeline("x86_64")
    probe = one.entry(program_step(one.store, X86_64, PROBE, one.jobs, sources)).file(PROBE)
    outcome = rig.check("x86_64", probe=probe, timeout=6)
    assert re.search(message, assert_only(outcome, "virtio-9p")["virtio-9p"])


CGROUP, SHIM = "internal/cgroup/cgroup.go", "internal/shim/"
ALL_CAPABILITIES = "1<<41 - 1"
# What an agent does wrong, where, and what the check of containers says of it.
FAULTS = {
    "container": {
        "a pause that stops nothing": (
            CGROUP,
            {"err := c.manager.Freeze(cgroups.Frozen)": "var err error"},
            "a paused container's program went on",
        ),
        "limits that stay as they were": (
            CGROUP,
            {"limits.SkipDevices = len(asked.GetDevices()) == 0": "limits.SkipDevices = true\n\tlimits.Memory = 0"},
            "the container's cgroup is",
        ),
        "a cgroup that stays": (CGROUP, {"return c.manager.Destroy()": "return nil"}, "left behind: .* cgroups"),
        "a descriptor that stays": (
            CGROUP,
            {"c.directory.Close()": "unix.Dup(int(c.directory.Fd()))\n\t\tc.directory.Close()"},
            "left behind: .* agent_files",
        ),
        "memory that stays": (
            CGROUP,
            {
                "return c.manager.Destroy()": (
                    'kept = append(kept, strings.Repeat("x", 2<<20)...)\n\treturn c.manager.Destroy()'
                ),
                "// Remove takes a cgroup": "var kept []byte\n\n// Remove takes a cgroup",
            },
            "KiB of the guest's memory are gone",
        ),
        "a byte that is lost": (
            "internal/container/stream.go",
            {"return data[:n], nil": "if n > 32768 {\n\t\t\tn--\n\t\t}\n\t\treturn data[:n], nil"},
            "bytes through a process",
        ),
        "another signal": (
            "internal/container/manager.go",
            {
                "return c.signalInit(unix.Signal(signal))": (
                    "if signal == 10 {\n\t\t\tsignal = 12\n\t\t}\n\t\treturn c.signalInit(unix.Signal(signal))"
                ),
            },
            "the signal that came is 12, not 10",
        ),
        "a terminal of one size": (
            "internal/container/terminal.go",
            {"return setSize(fd, rows, columns)": "return nil"},
            "the terminal is",
        ),
        "somebody else's lack of memory": (
            "internal/container/resources.go",
            {"\treturn id, err\n": '\treturn id + "x", err\n'},
            "who ran out of memory is 'hungryx'",
        ),
    },
    "isolation": {
        "every device": (
            CGROUP,
            {
                "manager, err := create(path, limits)": (
                    "limits.SkipDevices = true\n\tmanager, err := create(path, limits)"
                ),
            },
            "opened devices that are not its own",
        ),
        "no limit of processes": (CGROUP, {"limits.PidsLimit = &t.pids": "_ = t.pids"}, "may have 'max' processes"),
        "nothing read-only": (
            f"{SHIM}protect.go",
            {"for _, path := range readonly {": "for _, path := range readonly[:0] {"},
            "may write to the guest's /proc/",
        ),
        "every capability": (
            f"{SHIM}restrict.go",
            {
                "dropBounding(sets[0])": f"dropBounding({ALL_CAPABILITIES})",
                "return setCapabilities(sets[1], sets[2], sets[3], sets[4])": (
                    f"return setCapabilities({ALL_CAPABILITIES}, {ALL_CAPABILITIES}, sets[3], sets[4])"
                ),
            },
            "may do what only the guest may: ",
        ),
        "links in a volume": (
            "internal/safepath/safepath.go",
            {"unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS": "unix.RESOLVE_IN_ROOT"},
            "through a link that a container had made",
        ),
        "the guest's cgroups": (
            f"{SHIM}build.go",
            {"unix.Unshare(unix.CLONE_NEWCGROUP)": "error(nil)"},
            "the root of its cgroup namespace is",
        ),
    },
}


@pytest.mark.parametrize(
    ("check", "fault"), [(check, fault) for check, faults in FAULTS.items() for fault in faults], ids=str
)
def test_an_agent_that_does_wrong_with_containers_fails_their_check(rig, pipeline, tmp_path, check, fault):
    """Of the checks those of storages are left out, for they take their time."""
    left_out = {"virtio-blk", "virtio-fs", "virtio-9p"}
    table = tuple(
        replace(each, needs=tuple(need for need in each.needs if need not in left_out))
        for each in CHECKS
        if each.name not in left_out
    )
    file, changes, message = FAULTS[check][fault]
    outcome = rig.check("x86_64", initrd=changed_initrd(pipeline("x86_64"), tmp_path, file, changes), table=table)
    assert outcome.failures == [check]
    assert re.search(message, next(each.detail for each in outcome.report.checks if each.name == check))
