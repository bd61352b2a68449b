package container

import (
	"os"
	"strconv"

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

// heeds tells whether a process has said what is to become of a signal: it has a handler, ignores it, or blocks it to take
// it from a signalfd or by sigwait (proc_pid_status(5), SigCgt, SigIgn, SigBlk).
func heeds(pid int, signal unix.Signal) bool {
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
