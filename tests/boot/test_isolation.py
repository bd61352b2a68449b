"""Containers that do harm in a real guest, where the agent is PID 1, and what others notice of it."""

import contextlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import pytest

from guestforge.agent.container import run_container
from guestforge.agent.errors import AgentError, RpcError
from guestforge.agent.metrics import held, parse_metrics
from guestforge.agent.spec import container_spec, process
from guestforge.arch import X86_64
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.kernel.step import CONFIG_COPY
from guestforge.rootfs.agent import PROBE
from guestforge.rootfs.tree import File

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]

LAUNCH = 1  # seconds that a process may take to its program
ROUNDS = 8


@pytest.fixture
def probe(pipeline):
    """The probe, as a file for a storage."""
    one = pipeline(X86_64.name)
    return File("/probe", one.entry(one.steps.probe).file(PROBE), 0o755)


def mounted(guest, storages, program):
    """Return the disk, which a program that is on it has the agent mount, and the agent."""
    disk = storages["virtio-blk"]
    guest.run_program(disk, program, 30, 4096)
    return disk, guest._agent


def test_a_container_that_stops_whatever_enters_it_holds_nobody_up(started, probe):
    """It stops a newcomer before it has become a program of its own, when whoever forked it still waits for that."""
    limits = (f"agent.launch_process_timeout={LAUNCH}",)
    with started(X86_64, "builtin", kernel_args=limits, more=[probe]) as (guest, storages):
        disk, agent = mounted(guest, storages, ["/probe", "exit", "0"])
        for name, args in (("bad", ["stop-others", "120"]), ("good", ["sleep", "120"])):
            agent.create_container(name, container_spec(name, disk.mount_point, process(["/probe", *args])))
            agent.start_container(name)
        failed = 0
        for number in range(ROUNDS):
            begun = time.monotonic()
            try:
                agent.exec_process("bad", f"e{number}", process(["/probe", "exit", "0"]), timeout=20)
            except AgentError:
                failed += 1
            assert time.monotonic() - begun < LAUNCH + 3
            begun = time.monotonic()
            agent.exec_process("good", f"e{number}", process(["/probe", "exit", "7"]), timeout=20)
            assert agent.wait_process("good", f"e{number}", timeout=20) == 7
            assert time.monotonic() - begun < 5
        assert failed, "nothing was stopped: this shows nothing"
        with ThreadPoolExecutor(ROUNDS) as visitors:  # the sandbox ends with all of it there, and with those who wait
            enter = partial(agent.exec_process, "bad", process=process(["/probe", "exit", "0"]), timeout=20)
            entries = [visitors.submit(enter, f"last{number}") for number in range(ROUNDS)]
            _, waiting = wait(entries, timeout=LAUNCH / 2)
            begun = time.monotonic()
            guest.power_off(30)
            assert time.monotonic() - begun < 10
        assert waiting, "nobody waited: this shows nothing"


def test_no_kernel_has_keyrings(arch_row, pipeline):
    """Those of a user are all its containers' (keyrings(7)), and the guest's: the agent makes none for a container."""
    assert read_dotconfig(pipeline(arch_row.name).kernel.path / CONFIG_COPY).get("CONFIG_KEYS", "n") == "n"


BOMB = """package main

import "syscall"

func main() {
	for {
		syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
	}
}
"""


def test_a_container_that_takes_all_processes_leaves_the_agent_its_own(started, probe, go_program):
    """Go's runtime ends a program that gets no thread, and with PID 1 the kernel ends.

    The same for memory, when a container takes all of it that has no limit of its own.
    """
    more = [probe, File("/bomb", go_program(X86_64, BOMB), 0o755)]
    with started(X86_64, "builtin", more=more) as (guest, storages):
        disk, agent = mounted(guest, storages, ["/probe", "exit", "0"])
        agent.create_container("good", container_spec("good", disk.mount_point, process(["/probe", "sleep", "120"])))
        agent.start_container("good")
        bomb = process(["/bomb"], capabilities=())
        agent.create_container("bad", container_spec("bad", disk.mount_point, bomb))
        agent.start_container("bad")
        time.sleep(3)
        for number in range(10):  # one bomb leaves others theirs, though it has the processor as well
            agent.exec_process("good", f"e{number}", process(["/probe", "exit", "7"]), timeout=20)
            assert agent.wait_process("good", f"e{number}", timeout=20) == 7
        agent.create_container("worse", container_spec("worse", disk.mount_point, bomb))
        agent.start_container("worse")
        time.sleep(3)
        with ThreadPoolExecutor(10) as visitors:
            entries = [
                visitors.submit(agent.exec_process, "good", f"f{number}", process(["/probe", "exit", "7"]), timeout=10)
                for number in range(10)
            ]
        for entry in entries:
            with contextlib.suppress(AgentError):  # two take what all containers may have
                entry.result()
        assert agent.check_health(timeout=5)
        for name in ("bad", "worse"):
            agent.remove_container(name, 60)
        is_well(agent, "bombs")
        a_container_without_a_limit_takes_all_memory(agent, disk.mount_point)
        a_process_that_came_later_takes_all_memory(agent, disk.mount_point)
        agent.remove_container("good", 30)
        assert run_container(agent, "after", disk.mount_point, ["/probe", "exit", "3"]).status == 3
        guest.power_off(30)


def is_well(agent, after):
    agent.exec_process("good", f"after-{after}", process(["/probe", "exit", "7"]), timeout=30)
    assert agent.wait_process("good", f"after-{after}", timeout=30) == 7
    assert agent.check_health()


def a_container_without_a_limit_takes_all_memory(agent, root):
    agent.create_container("hog", container_spec("hog", root, process(["/probe", "take"])))
    agent.start_container("hog")
    assert agent.oom_event(timeout=60) == "hog"
    assert agent.wait_process("hog", timeout=30) == 128 + 9
    is_well(agent, "hog")
    agent.remove_container("hog", 30)


def a_process_that_came_later_takes_all_memory(agent, root):
    """The container ends whole, though its first process has taken none."""
    spec = container_spec("group", root, process(["/probe", "sleep", "120"]))
    spec.Linux.Resources.Memory.Limit = 32 * 1024 * 1024
    agent.create_container("group", spec)
    agent.start_container("group")
    agent.exec_process("group", "hog", process(["/probe", "take"]))
    assert agent.wait_process("group", "hog", timeout=30) == 128 + 9
    assert agent.wait_process("group", timeout=30) == 128 + 9
    assert agent.oom_event(timeout=30) == "group"
    agent.remove_container("group", 30)


def test_a_guest_whose_kernel_has_no_limits_serves_without(started, probe):
    """That is told: its containers could take all that there is."""
    with started(X86_64, "builtin", kernel_args=("cgroup_disable=memory",), more=[probe]) as (guest, storages):
        assert "memory" in guest.wait_console("containers are not limited", 5)
        disk, agent = mounted(guest, storages, ["/probe", "exit", "0"])
        spec = container_spec("one", disk.mount_point, process(["/probe", "sleep", "120"]))
        spec.Linux.Resources.Memory.Limit = 32 * 1024 * 1024
        agent.create_container("one", spec)
        agent.start_container("one")
        assert guest.wait_console("limits are not enforced: there are no cgroups", 5)
        for call in (agent.stats_container, agent.pause_container):
            with pytest.raises(RpcError, match=r"FAILED_PRECONDITION.*no cgroups"):
                call("one")
        agent.remove_container("one", 30)
        assert held(parse_metrics(agent.metrics()))["cgroups"] == 0
        guest.power_off(30)


DEVICES = """package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		time.Sleep(time.Hour)
	}
	for name, device := range map[string][3]int{
		"root disk": {syscall.S_IFBLK, 254, 0}, "kmsg": {syscall.S_IFCHR, 1, 11}, "console": {syscall.S_IFCHR, 5, 1},
		"serial": {syscall.S_IFCHR, 4, 64}, "mem": {syscall.S_IFCHR, 1, 1}, "null": {syscall.S_IFCHR, 1, 3},
	} {
		path := "/dev/made"
		if err := syscall.Mknod(path, uint32(device[0]|0o600), device[1]<<8|device[2]); err != nil {
			panic(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		fmt.Printf("%s: %v\\n", name, errors.Unwrap(err))
		file.Close()
		os.Remove(path)
	}
}
"""


def test_a_container_opens_no_device_but_its_own(started, arch_row, go_program):
    """With the capabilities of every engine it makes what nodes it likes, as does a process that enters it."""
    more = [File("/devices", go_program(arch_row, DEVICES), 0o755)]
    with started(arch_row, "builtin", more=more) as (guest, storages):
        disk, agent = storages["virtio-blk"], guest._agent
        ran = guest.run_program(disk, ["/devices"], 30, 4096)
        assert ran.status == 0, ran.stderr
        told = dict(line.split(": ") for line in ran.stdout.decode().splitlines())
        denied = dict.fromkeys(("root disk", "kmsg", "console", "serial", "mem"), "operation not permitted")
        assert told == {**denied, "null": "<nil>"}
        spec = container_spec("rules", disk.mount_point, process(["/devices"]))
        spec.Linux.Resources.Devices.add(Allow=False, Access="rwm")
        spec.Linux.Resources.Devices.add(Allow=True, Type="c", Major=1, Minor=11, Access="rw")
        agent.create_container("rules", spec)
        agent.start_container("rules")
        told = dict(
            line.split(": ") for line in agent.read_stdout("rules", limit=4096, timeout=30).decode().splitlines()
        )
        assert (told["kmsg"], told["mem"]) == ("<nil>", "operation not permitted")
        waits = container_spec("waits", disk.mount_point, process(["/devices", "wait"]))
        agent.create_container("waits", waits)
        agent.start_container("waits")
        agent.exec_process("waits", "more", process(["/devices"]), timeout=30)
        told = agent.read_stdout("waits", "more", limit=4096, timeout=30).decode()
        assert dict(line.split(": ") for line in told.splitlines()) == {**denied, "null": "<nil>"}
        agent.remove_container("waits", 30)


def test_a_guests_kernel_has_no_way_to_its_own_vsock_ports(pipeline, arch_row):
    config = read_dotconfig(pipeline(arch_row.name).kernel.path / CONFIG_COPY)
    assert (config["CONFIG_VSOCKETS"], config["CONFIG_VSOCKETS_LOOPBACK"]) == ("y", "n")


GREEDY = """package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	var files syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	fmt.Println(files.Max)
	children := 0
	for ; children < 1000; children++ {
		pid, _, errno := syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
		if errno != 0 {
			break
		}
		if pid == 0 {
			for {
				syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
			}
		}
	}
	fmt.Println(children)
	if len(os.Args) > 1 {
		for all := []byte{}; ; {
			all = append(all, make([]byte, 1<<20)...)
			for i := 0; i < len(all); i += 4096 {
				all[i] = 1
			}
		}
	}
}
"""


def test_a_container_gets_no_more_than_its_spec_says(started, go_program):
    """Nor is its name the kernel's word: what runs out of memory is named on the console, here like a fault."""
    program = go_program(X86_64, GREEDY)
    more = [File(path, program, 0o755) for path in ("/greedy", "/WARNING: small")]
    with started(X86_64, "builtin", more=more) as (guest, storages):
        disk, agent = mounted(guest, storages, ["/conform", "execute", "/out", "1"])
        for name, args in (("few", ["/greedy"]), ("small", ["/WARNING: small", "all"])):
            spec = container_spec(name, disk.mount_point, process(args))
            spec.Linux.Resources.Pids.Limit = 40
            spec.Linux.Resources.Memory.Limit = 32 * 1024 * 1024
            agent.create_container(name, spec)
            agent.start_container(name)
            files, children = map(int, agent.read_stdout(name, limit=100, timeout=30).split())
            assert files == 1 << 20
            assert 20 < children < 40
        assert agent.wait_process("few", timeout=30) == 0
        assert agent.wait_process("small", timeout=30) == 128 + 9
        assert "WARNING: small invoked oom-killer" in guest.console_tail(200)
        assert not guest.console_faults()
        assert agent.check_health()
        for name in ("few", "small"):
            agent.remove_container(name, 30)
        guest.power_off(30)


# What each call gets: an answer's number, or 0.
CALLS = """package main

import (
	"fmt"
	"syscall"
	"unsafe"
)

func main() {
	path := unsafe.Pointer(syscall.StringBytePtr("/tmp/made"))
	here := ^uintptr(99) // AT_FDCWD
	for _, call := range []struct {
		name string
		nr   uintptr
		args [3]uintptr
	}{
		{"mkdirat", syscall.SYS_MKDIRAT, [3]uintptr{here, uintptr(path), 0o700}},
		{"personality 0", syscall.SYS_PERSONALITY, [3]uintptr{0}},
		{"personality 8", syscall.SYS_PERSONALITY, [3]uintptr{8}},
		{"personality high", syscall.SYS_PERSONALITY, [3]uintptr{1 << 32}},
		{"acct", syscall.SYS_ACCT, [3]uintptr{}},
		{"unknown", 900, [3]uintptr{}},
	} {
		_, _, errno := syscall.RawSyscall(call.nr, call.args[0], call.args[1], call.args[2])
		fmt.Printf("%s: %d\\n", call.name, errno)
	}
}
"""

# What Go's runtime and the program's output need.
GO_NEEDS = """
    arch_prctl brk clock_gettime clone clone3 close epoll_create1 epoll_ctl epoll_pwait eventfd2 execve exit
    exit_group fcntl fstat futex getpid getrandom gettid ioctl madvise mincore mmap mprotect munmap nanosleep
    newfstatat openat pipe2 prctl pread64 prlimit64 read readlinkat rt_sigaction rt_sigprocmask rt_sigreturn
    sched_getaffinity sched_yield sigaltstack statx tgkill uname write
"""
EPERM, ENOSYS, EDOM = 1, 38, 33


def with_profile(name, disk, program, default, *rules):
    """A container's spec with a profile: each rule is names, an action, an errno and conditions."""
    spec = container_spec(name, disk.mount_point, program)
    spec.Linux.Seccomp.DefaultAction = default
    spec.Linux.Seccomp.Architectures.extend(["SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"])
    for names, action, errno, args in rules:
        rule = spec.Linux.Seccomp.Syscalls.add(Names=names, Action=action)
        if errno:
            rule.errnoret = errno
        for condition in args:
            rule.Args.add(**condition)
    return spec


def told_by(agent, name, process_id=""):
    text = agent.read_stdout(name, process_id, limit=4096, timeout=30).decode()
    return {call: int(errno) for call, errno in (line.split(": ") for line in text.splitlines())}


def test_a_container_makes_no_call_that_its_profile_denies(started, arch_row, pipeline, go_program):
    one = pipeline(arch_row.name)
    probe = File("/probe", one.entry(one.steps.probe).file(PROBE), 0o755)
    more = [probe, File("/calls", go_program(arch_row, CALLS), 0o755)]
    with started(arch_row, "builtin", more=more) as (guest, storages):
        disk, agent = mounted(guest, storages, ["/probe", "exit", "0"])
        assert agent.guest_details().supports_seccomp
        denied = [
            (["mkdirat", "no_such_call"], "SCMP_ACT_ERRNO", ENOSYS, ()),
            (["personality"], "SCMP_ACT_ERRNO", EDOM, ({"Index": 0, "Op": "SCMP_CMP_EQ", "Value": 8},)),
            (["personality"], "SCMP_ACT_ERRNO", 0, ({"Index": 0, "Op": "SCMP_CMP_GE", "Value": 1 << 32},)),
            (["acct"], "SCMP_ACT_ERRNO", 0, ()),
        ]
        answers = {
            "mkdirat": ENOSYS, "personality 0": 0, "personality 8": EDOM, "personality high": EPERM, "acct": EPERM,
            "unknown": ENOSYS,
        }  # fmt: skip
        agent.create_container("denied", with_profile("denied", disk, process(["/calls"]), "SCMP_ACT_ALLOW", *denied))
        agent.start_container("denied")
        assert told_by(agent, "denied") == answers
        assert agent.wait_process("denied", timeout=30) == 0

        sleeping = process(["/probe", "sleep", "120"])
        agent.create_container("host", with_profile("host", disk, sleeping, "SCMP_ACT_ALLOW", *denied))
        agent.start_container("host")
        agent.exec_process("host", "more", process(["/calls"]), timeout=30)
        assert told_by(agent, "host", "more") == answers
        agent.remove_container("host", 30)

        listed = [
            (GO_NEEDS.split(), "SCMP_ACT_ALLOW", 0, ()),
            (["personality"], "SCMP_ACT_ALLOW", 0, ({"Index": 0, "Op": "SCMP_CMP_EQ", "Value": 0},)),
            (["clone3"], "SCMP_ACT_ERRNO", ENOSYS, ()),
        ]
        for name, args, status in (("list", ["/calls"], 0), ("probe", ["/probe", "exit", "7"], 7)):
            agent.create_container(name, with_profile(name, disk, process(args), "SCMP_ACT_ERRNO", *listed))
            agent.start_container(name)
            assert agent.wait_process(name, timeout=30) == status
        assert told_by(agent, "list") == {
            **dict.fromkeys(answers, EPERM), "personality 0": 0, "unknown": ENOSYS,
        }  # fmt: skip
        killed = [(["mkdirat"], "SCMP_ACT_KILL_PROCESS", 0, ())]
        agent.create_container("kill", with_profile("kill", disk, process(["/calls"]), "SCMP_ACT_ALLOW", *killed))
        agent.start_container("kill")
        assert agent.wait_process("kill", timeout=30) == 128 + signal.SIGSYS
        guest.power_off(30)
