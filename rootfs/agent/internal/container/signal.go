package container

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
)

func signalOne(p *process, signal unix.Signal) error {
	err := p.child.Signal(signal)
	if err == unix.ESRCH {
		return fault.New(codes.NotFound, "the process has ended")
	}
	return err
}

// signalAll signals every process of a container's pid namespace. The first process gets SIGKILL in place of a SIGTERM
// that it has no handler for: as the first of its namespace it would never see it, and the container never end.
func signalAll(init *process, signal unix.Signal) error {
	if signal == unix.SIGTERM && !handles(init.child.Pid, signal) {
		signal = unix.SIGKILL
	}
	if signal != unix.SIGKILL { // with the first process the kernel kills all others
		for _, pid := range others(init.child.Pid) {
			if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return signalOne(init, signal)
}

// others returns the processes that share the pid namespace of one; none if that is the agent's own, where all that
// runs in the guest would be among them.
func others(first int) []int {
	space, err := os.Readlink("/proc/" + strconv.Itoa(first) + "/ns/pid")
	if err != nil {
		return nil
	}
	if own, err := os.Readlink("/proc/self/ns/pid"); err != nil || own == space {
		return nil
	}
	directory, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer directory.Close()
	names, _ := directory.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == first {
			continue
		}
		if link, err := os.Readlink("/proc/" + name + "/ns/pid"); err == nil && link == space {
			pids = append(pids, pid)
		}
	}
	return pids
}

// handles tells whether a process has a handler for a signal (proc_pid_status(5), SigCgt).
func handles(pid int, signal unix.Signal) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	_, after, _ := bytes.Cut(text, []byte("\nSigCgt:\t"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	mask, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
	return err == nil && mask&(1<<(signal-1)) != 0
}
