"""Real machines: how each way to end is noticed, and that nothing is left behind. Most stay in their firmware."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from guestforge.agent.errors import ConnectError
from guestforge.arch import ARCHES
from guestforge.core.capabilities import NUMBERS
from guestforge.core.errors import UserError
from guestforge.vmm import accel
from guestforge.vmm.errors import MachineError
from guestforge.vmm.machine import Machine
from guestforge.vmm.plan import Disk, MachinePlan, Root, Share, Vsock
from guestforge.vmm.state import State
from guestforge.vmm.user import SERVES_FILES, TRANSIENT
from guestforge.vmm.virtiofs import VirtioFsServer, choose_virtiofs
from guestforge.vmm.virtiofsd import Virtiofsd

pytestmark = [pytest.mark.boot, pytest.mark.timeout(120)]
SOON = 2.0  # seconds from an event to the error, on a loaded host


@pytest.fixture(autouse=True)
def runtime(monkeypatch):
    """A directory for sockets that must be empty in the end."""
    with tempfile.TemporaryDirectory(prefix="t-") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield Path(short)
        assert list(Path(short).iterdir()) == []


@pytest.fixture
def plan(tmp_path):
    """A machine without a kernel, with every device."""
    (tmp_path / "share").mkdir()
    return MachinePlan(
        arch=ARCHES["x86_64"],
        accelerator="tcg",
        kernel=None,
        console_log=tmp_path / "console.log",
        shares=(Share("kataShared", tmp_path / "share"),),
        vsock=Vsock("builtin"),
    )


def bare(plan, **changes):
    return replace(plan, **{"shares": (), "vsock": None} | changes)


def gone(pid):
    """Whether a process has ended, also if whoever it belongs to now has not waited for it yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def all_gone(machine):
    return all(gone(pid) for pid in machine.pids.values())


@pytest.mark.parametrize("arch", list(ARCHES))
def test_machine_of_each_architecture_starts_with_every_device(arch, plan, tmp_path):
    disks = []
    for name in ("a,b", "second"):
        (tmp_path / name).write_bytes(bytes(1024 * 1024))
        disks.append(Disk(tmp_path / name, serial=name[0]))
    with Machine(replace(plan, arch=ARCHES[arch], disks=tuple(disks), extra=("-S",))) as machine:
        assert machine.qemu_version[0].isdigit()
        assert machine.phases["qemu_start"] > 0
        assert machine.execute("query-status")["status"] == "prelaunch"
        assert machine.memory().rss_kib >= machine.memory().pss_kib > 1000
        assert set(machine.pids) == {"qemu", "vsock", "share kataShared"}
    assert all_gone(machine)


@pytest.mark.parametrize("arch", list(ARCHES))
def test_qemu_of_root_has_no_right_of_roots(arch, plan):
    with Machine(bare(plan, arch=ARCHES[arch], extra=("-S",))) as machine:  # s390x's firmware ends without a disk
        pid = machine.pids["qemu"]
        for thread in Path(f"/proc/{pid}/task").iterdir():
            status = status_of(thread)
            users = {*status["Uid"].split(), *status["Gid"].split(), *status["Groups"].split()}
            assert len(users) == 1, users
            assert int(users.pop()) in TRANSIENT
            assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_qemu_that_serves_files_is_their_owner(plan, tmp_path):
    (tmp_path / "nine").mkdir()
    os.chown(tmp_path / "nine", 61300, 61301)
    with Machine(bare(plan, shares=(Share("nine", tmp_path / "nine", "virtio-9p"),))) as machine:
        status = status_of(Path(f"/proc/{machine.pids['qemu']}"))
        assert (set(status["Uid"].split()), set(status["Gid"].split())) == ({"61300"}, {"61301"})
        assert int(status["CapEff"], 16) == 0


def test_qemu_that_serves_roots_files_has_the_rights_for_that_alone(plan, tmp_path):
    with Machine(bare(plan, shares=(Share("nine", tmp_path, "virtio-9p"),))) as machine:
        status = status_of(Path(f"/proc/{machine.pids['qemu']}"))
        kept = sum(1 << NUMBERS[name.upper()] for name in SERVES_FILES)
        assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == [kept] * 3
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def status_of(process):
    return dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)


@pytest.mark.parametrize("device", ["virtio-fs", "virtio-9p"])
def test_share_that_all_users_get_to_is_refused_as_root(plan, device):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        Path(place).chmod(0o755)
        share = Share("open", Path(place), device)
        with pytest.raises(UserError, match="a guest may open it"), Machine(bare(plan, shares=(share,))):
            pass
        allowed = replace(share, allow_exposed=True)
        for server in ("builtin", "virtiofsd"):
            with Machine(bare(plan, shares=(allowed,)), virtiofs=choose_virtiofs(plan.arch, server)) as machine:
                assert machine.why_ended() is None


def test_missing_qemu_is_the_users_error(plan):
    with (
        pytest.raises(UserError, match="qemu-system-none is not installed"),
        Machine(replace(plan, arch=replace(plan.arch, qemu="qemu-system-none"))),
    ):
        pass


def test_qemu_that_refuses_its_arguments_shows_its_words(plan):
    with (
        pytest.raises(MachineError, match="did not start") as caught,
        Machine(replace(plan, extra=("-device", "nonsense"))),
    ):
        pass
    assert caught.value.kind == "qemu-failed"
    assert "nonsense" in caught.value.excerpt


def test_guest_that_hangs_before_its_console_meets_the_limit(plan):
    with Machine(bare(plan)) as machine:
        start = time.monotonic()
        with pytest.raises(MachineError, match=r"no 'Linux version' on the console within 0\.5 s") as caught:
            machine.wait_console("Linux version", 0.5)
        assert caught.value.kind == "timeout"
        assert 0.5 <= time.monotonic() - start < SOON
    assert all_gone(machine)


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ("qemu", "qemu-exited", "QEMU ended with SIGKILL"),
        ("share kataShared", "virtiofs-died", "virtiofsd .* died with SIGKILL"),
        ("vsock", "vsock-died", "vsock device died with SIGKILL"),
    ],
)
def test_program_that_is_killed_ends_the_run_at_once(plan, program, kind, words):
    with Machine(plan) as machine:
        called = []
        machine.on_end(lambda: called.append(machine.why_ended()))
        assert machine.why_ended() is None
        os.kill(machine.pids[program], signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(MachineError, match=words) as caught:
            machine.wait_console("anything", 30)
        assert caught.value.kind == kind
        assert time.monotonic() - start < SOON
        time.sleep(0.5)  # the other programs have followed by now, and are not blamed
        assert machine.why_ended() == caught.value.message
        with pytest.raises(MachineError, match=words):
            machine.verify()
    assert called == [caught.value.message]
    assert all_gone(machine)


def test_programs_that_end_because_qemu_does_are_not_blamed(plan):
    with Machine(plan) as machine:
        os.kill(machine.pids["qemu"], signal.SIGTERM)
        assert machine.wait_end(10).returncode == 0
        time.sleep(0.5)
        assert "QEMU ended" in machine.why_ended()
        with pytest.raises(MachineError) as caught:
            machine.verify()
        assert caught.value.kind == "qemu-exited"


def test_quit_by_qmp_is_told_as_the_reason(plan):
    with Machine(bare(plan)) as machine:
        machine.execute("quit")
        ended = machine.wait_end(10)
        assert (ended.reason, ended.returncode) == ("host-qmp-quit", 0)
        assert machine.memory() is None


def test_instructions_are_counted(plan):
    with Machine(bare(plan, icount=True)) as machine:
        time.sleep(0.3)
        first = machine.instructions()
        time.sleep(0.3)
        assert 1000 < first < machine.instructions()


def test_refused_qmp_command_is_an_error_and_the_machine_goes_on(plan):
    with Machine(bare(plan)) as machine:
        with pytest.raises(MachineError, match="nonsense"):
            machine.execute("nonsense")
        assert machine.execute("query-status")["running"]


def test_guest_that_is_paused_on_purpose_is_no_trouble(plan):
    with Machine(bare(plan)) as machine:
        machine.execute("stop")
        time.sleep(0.2)
        machine.verify()


def test_connection_that_gets_no_answer_gives_up_when_the_machine_ends(plan):
    with Machine(replace(plan, shares=())) as machine:
        os.kill(machine.pids["vsock"], signal.SIGSTOP)
        try:
            threading.Timer(0.2, os.kill, (machine.pids["qemu"], signal.SIGKILL)).start()
            start = time.monotonic()
            with pytest.raises(ConnectError, match="QEMU ended with SIGKILL"):
                machine.connect(1024, 30)
            assert time.monotonic() - start < SOON
        finally:
            os.kill(machine.pids["vsock"], signal.SIGCONT)


def test_virtiofsd_that_does_not_start_is_named_with_its_words(plan, tmp_path):
    script = tmp_path / "virtiofsd"
    script.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    script.chmod(0o755)
    server = VirtioFsServer("virtiofsd", "asked for", Virtiofsd(script, "Rust", "9.9.9"))
    with pytest.raises(MachineError) as caught, Machine(plan, virtiofs=server):
        pass
    assert caught.value.kind in {"helper-failed", "virtiofs-died"}
    assert "virtiofsd (Rust, 9.9.9)" in caught.value.message
    assert "no such luck" in caught.value.excerpt


def test_vsock_device_that_does_not_start_is_named_with_its_words(plan, monkeypatch):
    monkeypatch.setattr("guestforge.vmm.machine.vsock_argv", lambda *_: [sys.executable, "-c", "print('bad'); exit(4)"])
    with pytest.raises(MachineError, match="vsock device ended with exit code 4") as caught, Machine(plan):
        pass
    assert caught.value.kind == "helper-failed"
    assert caught.value.excerpt == "bad"


@pytest.mark.parametrize("place", ["_start_helpers", "_await_qemu"])
def test_interrupt_while_it_starts_leaves_nothing(plan, monkeypatch, place):
    machine = Machine(plan)
    real = getattr(machine, place)

    def interrupted(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, place, interrupted)
    with pytest.raises(KeyboardInterrupt), machine:
        pass
    assert not emulators()


def test_interrupt_between_qemu_and_its_watcher_leaves_nothing(plan, monkeypatch):
    started = []

    def interrupted(*_args, **_options):
        started.extend(emulators())
        raise KeyboardInterrupt

    monkeypatch.setattr("guestforge.vmm.machine.Watcher", interrupted)
    with pytest.raises(KeyboardInterrupt), Machine(plan):
        pass
    assert len(started) == 1
    assert not emulators()


def emulators():
    """Our children that are a QEMU."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in children if "qemu-system" in Path(f"/proc/{pid}/cmdline").read_text()]


OTHER_PROCESS = """
import sys
from pathlib import Path
from guestforge.arch import ARCHES
from guestforge.core.capabilities import NUMBERS
from guestforge.vmm.machine import Machine
from guestforge.vmm.plan import MachinePlan, Share, Vsock
share, log = map(Path, sys.argv[1:])
plan = MachinePlan(ARCHES["x86_64"], "tcg", None, log, shares=(Share("x", share),), vsock=Vsock("builtin"))
with Machine(plan) as machine:
    print(*machine.pids.values(), flush=True)
    machine.wait_console("never", 60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_process_that_is_ended_takes_its_machine_with_it(tmp_path, runtime, number):
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, tmp_path, tmp_path / "log"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        process.send_signal(number)
        process.communicate(timeout=20)
    deadline = time.monotonic() + SOON
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(map(gone, pids))
    if number == signal.SIGKILL:  # nobody was left to remove it
        subprocess.run(["rm", "-r", *runtime.iterdir()], check=True)


def test_directory_name_that_is_too_long_is_not_used(plan, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 80)))
    (tmp_path / ("x" * 80)).mkdir()
    with Machine(replace(plan, shares=(), extra=("-S",))) as machine:
        assert len(str(machine.sockets.vsock)) < 60


def test_disk_that_another_machine_has_is_refused(plan, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1024 * 1024))
    locked = bare(plan, disks=(Disk(tmp_path / "disk"),), extra=("-S",))
    with Machine(locked), pytest.raises(MachineError, match="did not start") as caught, Machine(locked):
        pass
    assert "lock" in caught.value.excerpt


# With a kernel


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_kernel_without_its_root_is_noticed_with_the_cause(built, plan, arch):
    guest = built(arch)
    with Machine(bare(plan, arch=ARCHES[arch], kernel=guest.kernel, root=Root("/dev/vdz1"))) as machine:
        start = time.monotonic()
        with pytest.raises(MachineError) as caught:
            machine.wait_console("never", 60)
        assert caught.value.kind == "no-init"
        assert "/dev/vdz1" in caught.value.excerpt
        assert time.monotonic() - start < 30
        assert machine.phases["qemu_start"] < machine.phases["kernel_up"]
    assert "Linux version" in plan.console_log.read_text()


def test_kernel_with_a_nonexistent_init_is_a_panic_that_ends_the_wait_for_the_end(built, plan):
    guest = built("x86_64")
    image = Disk(guest.image, read_only=True)
    arguments = bare(plan, kernel=guest.kernel, root=Root(), disks=(image,), kernel_args=("init=/nonexistent",))
    with Machine(arguments) as machine, pytest.raises(MachineError, match="nonexistent") as caught:
        machine.wait_end(60)
    assert caught.value.kind == "no-init"


def test_kernel_that_runs_proves_its_accelerator(built):
    state = accel.probe(ARCHES["x86_64"], built("x86_64").kernel, "tcg")
    assert state.usable, state.reason


def test_kvm_is_what_a_kernel_proves_it_to_be(built, tmp_path):
    kernel = built("x86_64").kernel
    state = accel.kvm_state(ARCHES["x86_64"], kernel, cache=tmp_path)
    assert state.usable in (True, False)
    assert state.reason
    chosen = accel.choose_accelerator("auto", ARCHES["x86_64"], kernel, cache=tmp_path)
    assert chosen.name == ("kvm" if state.usable else "tcg")
    assert state.reason in chosen.reason
    if not state.usable:
        with pytest.raises(UserError, match="KVM can't be used"):
            accel.choose_accelerator("kvm", ARCHES["x86_64"], kernel, cache=tmp_path)


def test_failure_of_a_listener_to_the_console_ends_the_wait(built, plan):
    def on_line(_line):
        raise BrokenPipeError(32, "Broken pipe")

    with (
        Machine(bare(plan, kernel=built("x86_64").kernel), on_line=on_line) as machine,
        pytest.raises(MachineError, match="Broken pipe") as caught,
    ):
        machine.wait_console("never", 60)
    assert caught.value.kind == "watcher-failed"


def test_console_log_on_a_full_disk_is_a_clear_error(built, plan):
    with (
        Machine(bare(plan, kernel=built("x86_64").kernel, console_log=Path("/dev/full"))) as machine,
        pytest.raises(MachineError, match="log can't be written: No space left on device") as caught,
    ):
        machine.wait_console("never", 60)
    assert caught.value.kind == "log-failed"


def test_nothing_of_the_console_is_lost_when_its_reader_is_late(built, plan, monkeypatch, arch_row):
    feed = State.feed

    def feed_late(state, data):
        time.sleep(0.05)  # Linux waits 10 ms for a serial port
        feed(state, data)

    monkeypatch.setattr(State, "feed", feed_late)
    guest = built(arch_row.name)
    arguments = ("ignore_loglevel", "initcall_debug", "rdinit=/nonexistent")
    noisy = bare(plan, arch=arch_row, kernel=guest.kernel, initrd=guest.initrd, memory_mib=256, kernel_args=arguments)
    with Machine(noisy) as machine, contextlib.suppress(MachineError):
        machine.wait_end(60)
    log = noisy.console_log.read_text()
    # each call of an initializer has a line before it and one after it
    calls = re.findall(r"^\[ *\d+\.\d{6}\] calling  (\S+)\+0x\S+ @ 1$", log, re.MULTILINE)
    returns = re.findall(r"\] initcall (\S+)\+0x\S+ returned ", log)
    assert len(calls) > 100
    assert set(calls) == set(returns)
    assert len(calls) == log.count("] calling") == len(returns) == log.count("] initcall")
