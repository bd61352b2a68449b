"""What becomes of a signal to a container's first process, in a guest of each architecture."""

import signal
import time

import pytest

from guestforge.agent.spec import container_spec, process
from guestforge.rootfs.tree import File

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]

# A program that leaves SIGTERM to the kernel, of which Go's runtime has a handler; or blocks it, waits for it by
# sigwait(3), and ends with its number.
WAITS = """package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

var (
	term      = uint64(1) << (syscall.SIGTERM - 1)
	unhandled [64]byte // a sigaction
)

func init() { runtime.LockOSThread() } // main's thread is then the process's first one, which the kernel asks

func call(number uintptr, args ...uintptr) int {
	args = append(args, 0, 0, 0, 0)
	result, _, errno := syscall.Syscall6(number, args[0], args[1], args[2], args[3], 0, 0)
	if errno != 0 {
		panic(errno)
	}
	return int(result)
}

func main() {
	call(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGTERM), uintptr(unsafe.Pointer(&unhandled)), 0, 8)
	if os.Args[1] == "nothing" {
		fmt.Println("ready")
		call(syscall.SYS_PPOLL, 0, 0, 0, 0)
	}
	set := uintptr(unsafe.Pointer(&term))
	call(syscall.SYS_RT_SIGPROCMASK, 0, set, 0, 8)
	fmt.Println("ready")
	os.Exit(call(syscall.SYS_RT_SIGTIMEDWAIT, set, 0, 0, 8))
}
"""


def test_a_first_process_gets_the_sigterm_that_it_waits_for_or_is_killed(started, arch_row, go_program):
    more = [File("/waits", go_program(arch_row, WAITS), 0o755)]
    with started(arch_row, "builtin", more=more) as (guest, storages):
        disk = storages["virtio-blk"]
        guest.run_program(disk, ["/conform", "execute", "/out", "1"], 30, 4096)
        agent = guest._agent
        for word, status in (("sigwait", signal.SIGTERM), ("nothing", 128 + signal.SIGKILL)):
            for number, exec_id in enumerate(("", f"{word}1")):
                name = f"{word}{number}"
                agent.create_container(name, container_spec(name, disk.mount_point, process(["/waits", word])))
                agent.start_container(name)
                assert agent.read_some(name, timeout=30) == b"ready\n"
                time.sleep(0.3)  # it waits by now, and is judged by that
                agent.signal_process(name, exec_id, signal.SIGTERM)
                assert agent.wait_process(name, timeout=30) == status
                agent.remove_container(name, 30)
        guest.power_off(30)
