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
	orphans bool

	mu       sync.Mutex
	children map[int]*Child
	starting int                     // starts of which the process is not known yet
	early    map[int]unix.WaitStatus // of unknown processes that have ended since the first of those starts
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
	r := &Reaper{orphans: orphans, children: map[int]*Child{}, early: map[int]unix.WaitStatus{}}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	go func() {
		for range signals {
			r.collect()
		}
	}()
	return r
}

// Start runs a function that forks and returns the new process's id. Others start and end processes meanwhile: a fork may
// take any time. The status of a process that ends before its id is known is not lost. A process whose id comes with an
// error is ended.
func (r *Reaper) Start(fork func() (int, error)) (*Child, error) {
	r.mu.Lock()
	r.starting++
	r.mu.Unlock()
	pid, err := fork()
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.began()
	if err != nil && pid == 0 {
		return nil, err
	}
	child := &Child{Pid: pid, reaper: r, done: make(chan struct{})}
	if status, ended := r.early[pid]; ended && !isChild(pid) { // else the number was another's before
		child.end(status)
	} else {
		r.children[pid] = child
		if err != nil {
			unix.Kill(pid, unix.SIGKILL)
		}
		r.wait(pid) // its signal may have come when it was not known yet
	}
	if err != nil {
		return nil, err
	}
	return child, nil
}

func (r *Reaper) began() {
	if r.starting--; r.starting == 0 {
		clear(r.early)
	}
}

// isChild tells whether there is a child with this number, though it may have ended.
func isChild(pid int) bool {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
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
		child.end(status)
	} else if r.starting > 0 {
		r.early[pid] = status
	}
	return true
}

func (c *Child) end(status unix.WaitStatus) {
	c.status = status
	close(c.done)
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
