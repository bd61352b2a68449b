package container

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/procfs"
)

// signalInit signals a container's first process. SIGKILL takes the place of a SIGTERM that would have no effect: as the
// first of its pid namespace a process gets no signal that it has no handler for, and the container would never end.
func (c *container) signalInit(signal unix.Signal) error {
	if signal == unix.SIGTERM && !c.joined && !heeds(c.init.child.Pid, signal) {
		signal = unix.SIGKILL
	}
	return signalOne(c.init, signal)
}

func signalOne(p *process, signal unix.Signal) error {
	err := p.child.Signal(signal)
	if err == unix.ESRCH {
		return fault.New(codes.NotFound, "the process has ended")
	}
	return err
}

// heeds tells whether a process has said what is to become of a signal: it has a handler, ignores it, blocks it to take
// it from a signalfd, or waits for signals. Between two looks it may have come out of that wait.
func heeds(pid int, signal unix.Signal) bool {
	return masks(pid, signal) || waits(pid) || masks(pid, signal)
}

// masks tells whether a signal is in one of a process's sets (proc_pid_status(5), SigCgt, SigIgn, SigBlk).
func masks(pid int, signal unix.Signal) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	for _, name := range []string{"SigCgt", "SigIgn", "SigBlk"} {
		mask, err := strconv.ParseUint(procfs.Field(string(text), name), 16, 64)
		if err == nil && mask&(1<<(signal-1)) != 0 {
			return true
		}
	}
	return false
}

// waits tells whether a process is in sigwait(3), as tini is. For so long the kernel has what is waited for not blocked,
// and gives it to the process all the same (do_sigtimedwait and sig_ignored in kernel/signal.c). Which signals those are
// is not looked at: that is in the process's memory, and a container may have who reads it wait.
func waits(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/syscall") // proc_pid_syscall(5)
	number, _, _ := strings.Cut(string(text), " ")
	return err == nil && number == strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT)
}
