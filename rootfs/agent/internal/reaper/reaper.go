// Package reaper starts processes and collects their exit statuses, and as PID 1 those of all orphans.
//
// One SIGCHLD handler serves every child, so a child costs no thread that waits for it. Nothing else in the agent may
// wait for processes (os/exec, os.StartProcess): as PID 1 their statuses are collected here.
package reaper

import (
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// Reaper knows the processes that were started through it.
type Reaper struct {
	mu       sync.Mutex
	children map[int]*Child
	orphans  bool
}

// Child is a process that was started; its status stays here after the process has gone.
type Child struct {
	Pid    int
	reaper *Reaper
	done   chan struct{}
	status unix.WaitStatus
}

// New returns a reaper at work. With orphans, which is for PID 1 alone, it collects processes of others too.
func New(orphans bool) *Reaper {
	r := &Reaper{children: map[int]*Child{}, orphans: orphans}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	go func() {
		for range signals {
			r.collect()
		}
	}()
	return r
}

// Start runs a function that forks and returns the new process's id. No status is collected meanwhile, so not even
// that of a process which ends at once is lost.
func (r *Reaper) Start(fork func() (int, error)) (*Child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return nil, err
	}
	child := &Child{Pid: pid, reaper: r, done: make(chan struct{})}
	r.children[pid] = child
	return child, nil
}

func (r *Reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.orphans {
		for r.wait(-1) {
		}
		return
	}
	for pid := range r.children {
		r.wait(pid)
	}
}

// wait collects one process if it has ended; it tells whether there was one.
func (r *Reaper) wait(which int) bool {
	var status unix.WaitStatus
	pid, err := unix.Wait4(which, &status, unix.WNOHANG|unix.WALL, nil)
	for err == unix.EINTR {
		pid, err = unix.Wait4(which, &status, unix.WNOHANG|unix.WALL, nil)
	}
	if err != nil || pid <= 0 {
		return false
	}
	if child := r.children[pid]; child != nil {
		delete(r.children, pid)
		child.status = status
		close(child.done)
	}
	return true
}

// Done is closed when the process has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// ExitCode returns the code of a process that has ended; one that a signal ended has 128 and the signal's number.
func (c *Child) ExitCode() int {
	<-c.done
	if c.status.Signaled() {
		return 128 + int(c.status.Signal())
	}
	return c.status.ExitStatus()
}

// Signal sends a signal; ESRCH when the process has ended, even if its number belongs to another one by now.
func (c *Child) Signal(signal unix.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	select {
	case <-c.done:
		return unix.ESRCH
	default:
		return unix.Kill(c.Pid, signal)
	}
}
