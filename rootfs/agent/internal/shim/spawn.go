package shim

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/pipe"
	"guestforge.dev/agent/internal/reaper"
)

// The program of this process. As a file of the guest it is not there for a container that has its own mounts, but a
// shim starts with the agent's.
const self = "/proc/self/exe"

// NewSpaces are the namespaces that a container's first process gets of its own; others are the sandbox's.
const NewSpaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID

// Spaces are what a shim enters, nil where it does not: the pid namespace of a process, which is the first of its container or
// of another one that shares its namespace; and the sandbox's namespaces of IPC and UTS, for a container's first process. Others
// find those by the process.
type Spaces [3]*os.File

// PID is the process whose pid namespace a shim enters.
func (s Spaces) PID() *os.File { return s[0] }

// Fork starts a shim under a name. Its standard streams come first in files, its pipes after them, and its Spaces last.
// It starts in a cgroup, which is an open directory; nil is ours.
func Fork(name string, files []*os.File, cloneflags uintptr, cgroup *os.File) (int, error) {
	how := &syscall.SysProcAttr{Cloneflags: cloneflags}
	if cgroup != nil {
		how.UseCgroupFD, how.CgroupFD = true, int(cgroup.Fd())
	}
	return fork([]string{name}, Environment, descriptors(files), how)
}

const closed = ^uintptr(0) // what syscall.ForkExec takes for a descriptor that is not there

func descriptors(files []*os.File) (fds []uintptr) {
	for _, file := range files {
		fd := closed
		if file != nil {
			fd = file.Fd()
		}
		fds = append(fds, fd)
	}
	return fds
}

// Environment is a shim's. It needs one thread, and no more memory than that. Go's runtime must send it no signals: under a
// filter of system calls it may not be allowed to return from one.
var Environment = []string{"GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1"}

func fork(args, variables []string, fds []uintptr, how *syscall.SysProcAttr) (int, error) {
	attr := &syscall.ProcAttr{Dir: "/", Env: variables, Files: fds, Sys: how}
	pid, err := syscall.ForkExec(self, args, attr)
	if err != nil {
		return 0, fmt.Errorf("start a process: %w", err)
	}
	return pid, nil
}

// Enter has a shim started under a name in the pid namespace of a process, by a program that stays in ours: what is in
// that namespace may stop the newcomer before it is a shim, and whoever forked it then waits for ever. That helper is started
// through the reaper; the newcomer becomes our child as well, and Enter returns its id.
//
// The newcomer starts in a cgroup as Fork's does, which the helper enters before it forks: clone3(2) has no newcomer that is
// the child of a parent's and in another cgroup.
//
// Where that takes longer than the limit, the helper is ended, and the newcomer's id comes with the error.
func Enter(
	name string, files []*os.File, cgroup *os.File, limit time.Duration, children *reaper.Reaper,
) (int, error) {
	report, theirs, err := newPipe(unix.O_NONBLOCK)
	if err != nil {
		return 0, err
	}
	defer report.Close()
	tag := strconv.FormatUint(entered.Add(1), 10)
	files, args := append(files, theirs), []string{EnterName, name, tag}
	if cgroup != nil {
		files, args = append(files, cgroup), append(args, withCgroup)
	}
	helper, err := children.Start(func() (int, error) { return fork(args, Environment, descriptors(files), nil) })
	theirs.Close()
	if err != nil {
		return 0, err
	}
	pid, err := reported(report, limit)
	if err != nil {
		helper.Signal(unix.SIGKILL)
		<-helper.Done()
		pid = newcomer(tag)
	}
	return pid, err
}

// entered counts calls of Enter, so that each newcomer can be told from all others.
var entered atomic.Uint64

func reported(report *os.File, limit time.Duration) (int, error) {
	report.SetReadDeadline(time.Now().Add(limit))
	text, err := io.ReadAll(io.LimitReader(pipe.Patient{File: report}, maxError))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNeverReady, err)
	}
	if number, found := strings.CutPrefix(string(text), entry); found {
		return strconv.Atoi(number)
	}
	if len(text) == 0 {
		return 0, ErrNeverReady
	}
	return 0, parseComplaint(string(text))
}

// forkInto is the helper's part: it forks the shim into the pid namespace, as a child of its own parent's.
func forkInto(report *os.File) error {
	for fd := specFD; fd <= cgroupFD; fd++ { // closed ones do no harm
		unix.CloseOnExec(fd)
	}
	if err := unix.Setns(pidFD, unix.CLONE_NEWPID); err != nil { // for this thread's children alone
		return fmt.Errorf("enter the container's pid namespace: %w", err)
	}
	if len(os.Args) > 3 {
		if err := join(cgroupFD); err != nil {
			return fmt.Errorf("enter the container's cgroup: %w", err)
		}
	}
	fds := []uintptr{0, 1, 2, specFD, statusFD, releaseFD, pidFD, closed, closed}
	how := &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT}
	if os.Args[1] == InitName {
		fds[ipcFD], fds[utsFD], how.Cloneflags = ipcFD, utsFD, how.Cloneflags|unix.CLONE_NEWNS
	}
	pid, err := fork(os.Args[1:2], os.Environ(), fds, how) // the helper has a shim's environment itself
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(report, entry, pid)
	return err
}

// join enters the cgroup of an open directory.
func join(directory int) error {
	fd, err := unix.Openat(directory, "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("0"))
	return err
}

// newcomer returns the id of a process that was forked by a helper and has not become a shim, or 0: it still has the
// helper's memory, and so its arguments.
func newcomer(tag string) int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, each := range entries {
		if pid, err := strconv.Atoi(each.Name()); err == nil && isNewcomer(pid, tag) {
			return pid
		}
	}
	return 0
}

func isNewcomer(pid int, tag string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	words := strings.Split(string(text), "\x00")
	return len(words) > 2 && words[0] == EnterName && words[2] == tag
}
