// Package spaces has the namespaces that all containers of a sandbox share: those of IPC and of its name.
package spaces

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/descriptor"
)

// Shared are namespaces of a sandbox. They last as long as somebody is in them or has them open, and have no name in the
// file system that could be left over.
type Shared struct {
	Hostname string // what the sandbox is called, or nothing: then it has the guest's name
	PID      bool   // all containers share one pid namespace too, which the first of them brings
	IPC, UTS *os.File
}

// New makes the namespaces of a sandbox.
func New(hostname string) (*Shared, error) {
	type result struct {
		made *Shared
		err  error
	}
	results := make(chan result)
	go func() { // on a thread that is given up: it is in the new namespaces
		runtime.LockOSThread()
		made, back, err := unshared(hostname)
		if back {
			runtime.UnlockOSThread()
		}
		results <- result{made, err}
	}()
	got := <-results
	return got.made, got.err
}

// unshared makes namespaces on this thread, and tells whether the thread has come back to those that it was in.
func unshared(hostname string) (made *Shared, back bool, err error) {
	before, err := open()
	if err != nil {
		return nil, true, err
	}
	defer before.Close()
	if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return nil, true, fmt.Errorf("make the sandbox's namespaces: %w", err)
	}
	if hostname != "" {
		err = unix.Sethostname([]byte(hostname))
	}
	if err == nil {
		made, err = open()
	}
	if err != nil {
		return nil, before.Join() == nil, fmt.Errorf("set up the sandbox's namespaces: %w", err)
	}
	made.Hostname = hostname
	return made, before.Join() == nil, nil
}

// open opens the namespaces that this thread is in.
func open() (*Shared, error) {
	ipc, err1 := os.Open("/proc/thread-self/ns/ipc")
	uts, err2 := os.Open("/proc/thread-self/ns/uts")
	opened := &Shared{IPC: ipc, UTS: uts}
	if err := errors.Join(err1, err2); err != nil {
		opened.Close()
		return nil, err
	}
	return opened, nil
}

// Join has this thread enter the namespaces.
func (s *Shared) Join() error {
	if err := unix.Setns(int(s.IPC.Fd()), unix.CLONE_NEWIPC); err != nil {
		return fmt.Errorf("enter the sandbox's IPC namespace: %w", err)
	}
	if err := unix.Setns(int(s.UTS.Fd()), unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("enter the sandbox's UTS namespace: %w", err)
	}
	return nil
}

// Copy opens the namespaces once more: one who uses them need not care who lets them go meanwhile.
func (s *Shared) Copy() (*Shared, error) {
	ipc, err1 := descriptor.Duplicate(s.IPC)
	uts, err2 := descriptor.Duplicate(s.UTS)
	copied := &Shared{Hostname: s.Hostname, PID: s.PID, IPC: ipc, UTS: uts}
	if err := errors.Join(err1, err2); err != nil {
		copied.Close()
		return nil, err
	}
	return copied, nil
}

// Close lets the namespaces go.
func (s *Shared) Close() {
	for _, file := range []*os.File{s.IPC, s.UTS} {
		if file != nil {
			file.Close()
		}
	}
}
