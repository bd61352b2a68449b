"""Real guests in which something goes wrong: each fault ends the run soon, and fails the right check by name."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from agents import DIES, EXITS, SLEEPS, WARNS, Agents
from command import INVOKE, Running, on_small_disk
from faulty import HANGING
from rig import TABLE, Faults, kill

from guestforge.agent.storage import SHARE_TAG
from guestforge.arch import PPC64LE
from guestforge.check import fixtures, live
from guestforge.core.errors import CheckError
from guestforge.kernel.step import KERNEL, kernel_step
from guestforge.project.load import load_kernel
from guestforge.vmm import virtiofsd

pytestmark = [pytest.mark.boot, pytest.mark.timeout(120)]
SOON = 5.0  # seconds from an event to the end of the run, cleaned up, on a loaded host
TO_AGENT = ("kernel-up", "agent-ready", "agent-details")
SERVER = f"share {SHARE_TAG}"
ALL = tuple(check.name for check in TABLE)


@pytest.fixture
def agents(pipeline, tmp_path):
    """Builds agents with faults."""
    (tmp_path / "agents").mkdir()
    return Agents(tmp_path / "agents", pipeline)


def assert_fails(outcome, check, *words, passed=(), within=SOON):
    """One check failed, these passed, the others were skipped; the excerpt tells; it was over soon after the event."""
    assert outcome.statuses == {name: "fail" if name == check else "pass" if name in passed else "skip" for name in ALL}
    assert outcome.report.verdict == "fail"
    assert isinstance(outcome.error, CheckError)
    assert outcome.error.exit_code == 3
    text = outcome.error.report()
    assert check in outcome.error.message
    assert [word for word in words if word not in text] == []
    assert within is None or outcome.seconds < within
    written = json.loads((outcome.out / "report.json").read_text())
    assert written == json.loads(json.dumps(outcome.report.to_json()))


# The kernel


def test_kernel_without_its_init_panics(rig, arch_row):
    faults = Faults(line="Requested init /nonexistent failed")
    outcome = rig.check(arch_row.name, "image", kernel_args=("init=/nonexistent",), faults=faults)
    assert_fails(outcome, "agent-ready", "Requested init /nonexistent failed", passed=("kernel-up",))


def test_kernel_without_the_initrds_init_panics(rig, arch_row):
    faults = Faults(line="rdinit=/nonexistent")
    outcome = rig.check(arch_row.name, "initrd", kernel_args=("rdinit=/nonexistent",), faults=faults)
    assert_fails(outcome, "agent-ready", "Unable to mount root fs", passed=("kernel-up",))


def test_kernel_that_hangs_before_its_console_meets_the_limit(rig, arch_row, built, tmp_path):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(HANGING[arch_row.name](built(arch_row.name).kernel.read_bytes()))
    faults = Faults(at_wait=lambda _: None)
    limit = 15 if arch_row is PPC64LE else 3  # more than a healthy kernel takes: its firmware alone takes 4 s
    outcome = rig.check(arch_row.name, accel="tcg", timeout=limit, kernel=kernel, faults=faults)
    assert_fails(outcome, "kernel-up", "no 'Linux version", f"within {limit} s", within=limit + SOON)
    assert outcome.seconds > limit


def test_kernel_of_another_build_is_noticed(rig):
    outcome = rig.check(timeout=4, kernel_release="6.12.0-other", faults=Faults(at_wait=lambda _: None))
    assert_fails(outcome, "kernel-up", "no 'Linux version 6.12.0-other'", within=4 + SOON)


@pytest.mark.timeout(300)  # compiles what depends on the option
def test_kernel_without_virtio_fs_fails_that_check_alone(rig, pipeline):
    normal = pipeline("x86_64")
    recipe = load_kernel(normal.steps.guest.kernel)
    fragments = tuple(name for name in recipe.fragments if name != "virtio-fs")
    assert len(fragments) == len(recipe.fragments) - 1
    changed = recipe.model_copy(update={"fragments": fragments})
    source = normal.steps.kernel.uses["source"].step
    entry = normal.entry(kernel_step(normal.store, normal.arch, changed, source, jobs=normal.jobs))
    outcome = rig.check(kernel=entry.path / KERNEL)
    passed = tuple(name for name in ALL if name != "virtio-fs")
    assert_fails(outcome, "virtio-fs", "the agent refused a container with it", passed=passed, within=None)


# The agent


def test_agent_that_exits_is_a_panic(rig, agents, arch_row):
    initrd = agents.initrd(arch_row.name, agents.build(arch_row.name, EXITS))
    outcome = rig.check(arch_row.name, initrd=initrd, faults=Faults(line="Attempted to kill init"))
    assert_fails(outcome, "agent-ready", "Attempted to kill init", "agent: I give up", passed=("kernel-up",))


def test_agent_that_does_not_answer_meets_the_limit(rig, agents):
    initrd = agents.initrd("x86_64", agents.build("x86_64", SLEEPS))
    outcome = rig.check(initrd=initrd, timeout=6, faults=Faults(line="I think about it"))
    assert_fails(
        outcome, "agent-ready", "within 6 s", "I think about it", passed=("kernel-up", "console-clean"), within=6 + SOON
    )


def test_agent_that_dies_in_mid_run_is_a_panic(rig, agents):
    initrd = agents.initrd("x86_64", agents.build_with_fault("x86_64", DIES))
    outcome = rig.check(initrd=initrd, faults=Faults(line="Attempted to kill init"))
    assert_fails(outcome, "virtio-blk", "Attempted to kill init", passed=TO_AGENT)


def test_guest_that_warns_in_mid_run_has_no_clean_console(rig, agents):
    initrd = agents.initrd("x86_64", agents.build_with_fault("x86_64", WARNS))
    outcome = rig.check(initrd=initrd, faults=Faults(line="WARNING: CPU"))
    assert_fails(outcome, "console-clean", "WARNING: CPU: 0 PID: 1 at kernel/broken.c:1", passed=TO_AGENT)


def test_guest_that_hangs_in_mid_run_meets_the_limit(rig):
    faults = Faults(at_probe=("virtio-blk", lambda guest: guest._machine.execute("stop")), limit=3)
    outcome = rig.check(faults=faults)
    assert_fails(outcome, "virtio-blk", "the guest hangs", passed=TO_AGENT, within=3 + live.ALIVE_LIMIT + SOON)


# The programs on the host


@pytest.mark.parametrize(
    ("program", "at", "check", "words", "passed"),
    [
        ("qemu", "virtio-blk", "virtio-blk", "QEMU ended with SIGKILL", TO_AGENT),
        ("qemu", "virtio-fs", "virtio-fs", "QEMU ended with SIGKILL", TO_AGENT),
        (SERVER, "virtio-fs", "virtio-fs", "died with SIGKILL", TO_AGENT),
        (SERVER, "virtio-blk", "virtio-fs", "died with SIGKILL", TO_AGENT),
        ("vsock", "virtio-blk", "virtio-blk", "the vsock device died with SIGKILL", TO_AGENT),
    ],
)
def test_program_that_is_killed_in_mid_run_ends_it(rig, program, at, check, words, passed):
    outcome = rig.check(faults=Faults(at_probe=(at, kill(program))))
    assert_fails(outcome, check, words, passed=passed)


@pytest.mark.parametrize(("program", "check"), [("qemu", "kernel-up"), (SERVER, "virtio-fs"), ("vsock", "kernel-up")])
def test_program_that_is_killed_at_the_start_ends_the_run(rig, program, check):
    outcome = rig.check(faults=Faults(at_wait=kill(program)))
    assert_fails(outcome, check, "SIGKILL")


def test_missing_virtiofsd_leaves_our_own_server(rig, monkeypatch):
    monkeypatch.setattr(virtiofsd, "find_virtiofsd", lambda _: None)
    outcome = rig.check()
    assert outcome.failures == []
    assert outcome.report.served_by("virtio-fs") == "guestforge virtio-fs (no virtiofsd starts on this host)"


def test_full_disk_under_the_console_log_is_told(rig):
    def elsewhere(machine):
        return replace(machine, console_log=Path("/dev/full"))

    outcome = rig.check(faults=Faults(before_start=elsewhere, at_wait=lambda _: None))
    assert_fails(outcome, "kernel-up", "No space left on device")


# The storages


def details(outcome):
    return {result.name: result.summary for result in outcome.report.checks}


def test_storages_with_the_content_of_another_run_fail(rig, monkeypatch):
    storages = ["virtio-blk", "virtio-fs", "virtio-9p"]
    written = []

    def of_another_run(write):
        def exchanged(tree, place, *runtime, **options):
            probe = next(node.source for node in tree if node.path == "/probe")
            written.append(place.name)
            write(fixtures.container_tree(fixtures.new_nonce(), probe), place, *runtime, **options)

        return exchanged

    for name in ("write_directory", "write_disk"):
        monkeypatch.setattr(fixtures, name, of_another_run(getattr(fixtures, name)))
    outcome = rig.check()
    assert written == storages
    assert outcome.failures == storages
    assert {name for name, status in outcome.statuses.items() if status == "pass"} == set(ALL) - set(storages)
    for name in storages:
        assert "/data/nonce, seen by the guest: sha256 is" in details(outcome)[name]


def test_what_the_guest_wrote_must_be_there_in_the_end(rig, tmp_path):
    storages = []
    (tmp_path / "other").write_text("something else")
    (tmp_path / "script").write_text(f"rm /out/written\nwrite {tmp_path}/other /out/written\n")

    def remember(machine):
        storages.extend(machine.storages)

    def damage():
        for storage in storages:
            if storage.live:
                (storage.place / "out" / "written").write_text("something else")
            else:
                argv = ["debugfs", "-w", "-f", tmp_path / "script", storage.place]
                subprocess.run(argv, check=True, capture_output=True)

    outcome = rig.check(faults=Faults(before_start=remember, after_power_off=damage))
    assert outcome.failures == [storage.check for storage in storages]
    for name in outcome.failures:
        words = "after the guest was off: a new file /out/written, seen by the host: out/written holds 14 bytes"
        assert words in details(outcome)[name]
    assert outcome.statuses["poweroff"] == outcome.statuses["console-clean"] == "pass"


# On the command line


@pytest.fixture
def check(scene, built, tmp_path):
    """Starts `invoke check` of the x86_64 initrd."""
    assert built("x86_64").initrd.exists()  # so that the command need not build it

    def start(*words, **environment):
        words = ("check", "--arch", "x86_64", "--artifact", "initrd", "--output", str(tmp_path / "output"), *words)
        return Running(INVOKE, *words, **scene.environment | environment)

    return start


def test_failed_check_ends_the_command_with_3_and_shows_why(check, agents, tmp_path):
    ended = check("--agent", str(agents.build("x86_64", EXITS))).end()
    ended.assert_told(
        3,
        "error: boot check failed: x86_64 initrd (agent-ready)",
        "x86_64 initrd: agent-ready: the guest's kernel panicked: ",
        "Attempted to kill init!",
        "agent: I give up",
        "hint: the whole console is in console.log",
        "boot: x86_64 initrd accelerator=",
    )
    out = tmp_path / "output" / "x86_64" / "minimal" / "check" / "initrd"
    assert json.loads((out / "report.json").read_text())["verdict"] == "fail"
    assert "agent: I give up" in (out / "console.log").read_text()
    assert (out / "junit.xml").exists()


def test_missing_qemu_ends_the_command_with_3(check, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for directory in reversed(os.environ["PATH"].split(os.pathsep)):
        for tool in Path(directory).glob("*") if directory else ():
            if not tool.name.startswith("qemu-system"):
                (tools / tool.name).unlink(missing_ok=True)
                (tools / tool.name).symlink_to(tool)
    ended = check(PATH=str(tools)).end()
    ended.assert_told(3, "x86_64 initrd: kernel-up: qemu-system-x86_64 is not installed", "qemu-system-x86")


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "qemu"),
        (signal.SIGINT, "Linux version"),
        (signal.SIGINT, "agent ready"),
        (signal.SIGINT, "probe"),
        (signal.SIGTERM, "probe"),
    ],
)
def test_ctrl_c_in_a_boot_leaves_nothing(check, scene, tmp_path, number, moment):
    running = check("--verbose")
    if moment == "qemu":
        scene.wait_process("qemu-system-x86_64")
    else:
        running.wait_line({"probe": "EXT4-fs .*mounted filesystem"}.get(moment, moment))
    start = time.monotonic()
    running.signal(number)
    running.end().assert_told(130, "interrupted")
    assert time.monotonic() - start < SOON
    assert scene.left() == []
    out = tmp_path / "output" / "x86_64" / "minimal" / "check" / "initrd"
    assert not (out / "report.json").exists()


def test_killed_command_leaves_no_process_and_the_next_one_sweeps_the_rest(check, scene):
    running = check("--verbose")
    running.wait_line("agent ready")
    running.signal(signal.SIGKILL)
    running.end()
    scene.await_no_processes()
    assert [path.name[:3] for path in scene.runtime.iterdir()] == ["gf-"]
    assert [path.name[:17] for path in scene.temporary.iterdir()] == ["guestforge-check-"]
    running = check("--verbose")
    running.wait_line("agent ready")
    assert len(list(scene.runtime.iterdir())) == len(list(scene.temporary.iterdir())) == 1
    running.signal(signal.SIGINT)
    running.end().assert_told(130)


@pytest.mark.usefixtures("built")
def test_full_disk_under_the_temporary_directory_is_a_clear_error(scene, tmp_path):
    (tmp_path / "small").mkdir()
    words = ("check", "--arch", "x86_64", "--artifact", "initrd", "--output", str(tmp_path / "output"))
    ended = on_small_disk(
        INVOKE, tmp_path / "small", "100k", *words, **scene.environment | {"TMPDIR": tmp_path / "small"}
    )
    ended.assert_told(2, "No space left on device", "TMPDIR")
