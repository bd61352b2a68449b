package shim

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The program of this process. As a file of the guest it is not there for a container that has its own mounts, but a
// shim starts with the agent's.
const self = "/proc/self/exe"

// NewSpaces are the namespaces that a container's first process gets of its own.
const NewSpaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// Fork starts a shim under a name. Its standard streams come first in files, its pipes after them.
func Fork(name string, files []*os.File, cloneflags uintptr) (int, error) {
	attr := &syscall.ProcAttr{
		Dir: "/",
		// a shim needs one thread, and no more memory than that
		Env: []string{"GOMAXPROCS=1"},
		Sys: &syscall.SysProcAttr{Cloneflags: cloneflags},
	}
	for _, file := range files {
		attr.Files = append(attr.Files, file.Fd())
	}
	pid, err := syscall.ForkExec(self, []string{name}, attr)
	if err != nil {
		return 0, fmt.Errorf("start a process: %w", err)
	}
	return pid, nil
}

// ForkInto does the same, and the new process is in the pid namespace of another one.
func ForkInto(name string, files []*os.File, pidfd int) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Setns(pidfd, unix.CLONE_NEWPID); err != nil { // for this thread's children alone
			err = fmt.Errorf("enter the container's pid namespace: %w", err)
			runtime.UnlockOSThread()
			return
		}
		pid, err = Fork(name, files, 0)
		// the goroutine ends locked, and with it the thread, which nothing else may run on
	}()
	<-done
	return pid, err
}
