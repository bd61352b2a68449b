package container

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/cgroup"
	"guestforge.dev/agent/internal/reaper"
	"guestforge.dev/agent/internal/shim"
)

// process is one that the agent started in a container.
type process struct {
	child   *reaper.Child
	pipes   *shim.Pipes
	streams *streams
	telling sync.Once
	told    chan struct{} // closed when somebody was told its status
	dropped chan struct{} // closed when it is nobody's any more
}

// How long a process of ExecProcess that has ended is kept: Unread from when its status was told, if its output is not
// read to the end, and Unasked from its end, if nobody asks for its status.
const (
	Unread  = 10 * time.Second
	Unasked = 10 * time.Minute
)

// Launcher starts processes.
type Launcher struct {
	Reaper   *reaper.Reaper
	Timeout  time.Duration // of a process's way to its program
	PipeSize int           // bytes; 0 is the kernel's default
	Unread   time.Duration
	Unasked  time.Duration
}

// create starts a process in namespaces and a cgroup, and has it wait for its release.
func (l *Launcher) create(name string, spec *api.Spec, in shim.Spaces, group *cgroup.Cgroup) (*process, error) {
	pipes, theirs, err := shim.NewPipes()
	if err != nil {
		return nil, err
	}
	streams, standard, err := l.newStreams(spec.Process)
	if err != nil {
		pipes.Close()
		shim.CloseAll(theirs)
		return nil, err
	}
	p := &process{pipes: pipes, streams: streams, told: make(chan struct{}), dropped: make(chan struct{})}
	deadline := time.Now().Add(l.Timeout)
	err = l.start(p, name, slices.Concat(standard, theirs, in[:]), in.PID() != nil, group)
	shim.CloseAll(standard) // the process has them, or there is none
	shim.CloseAll(theirs)
	if err == nil {
		err = pipes.Send(spec, time.Until(deadline))
	}
	if err != nil {
		p.abandon()
		return nil, err
	}
	go p.watch()
	return p, nil
}

func (l *Launcher) newStreams(process *api.Process) (*streams, []*os.File, error) {
	if process.Terminal {
		return newTerminal(process.ConsoleSize)
	}
	return newStreams(l.PipeSize)
}

// start makes the process itself, with these files.
func (l *Launcher) start(p *process, name string, files []*os.File, enters bool, group *cgroup.Cgroup) (err error) {
	p.child, err = l.Reaper.Start(func() (int, error) {
		if !enters {
			return shim.Fork(name, files, shim.NewSpaces, group.Directory())
		}
		return shim.Enter(name, files, group.Directory(), l.Timeout, l.Reaper)
	})
	return err
}

func (p *process) watch() {
	<-p.child.Done()
	p.streams.stdout.processEnded()
	p.streams.stderr.processEnded()
}

// release lets a process become its program.
func (p *process) release(limit time.Duration) error {
	err := p.pipes.Release(limit)
	p.pipes.Close()
	if err != nil {
		p.child.Signal(unix.SIGKILL)
	}
	return err
}

// abandon ends a process that did not come up.
func (p *process) abandon() {
	if p.child != nil {
		p.child.Signal(unix.SIGKILL)
	}
	p.pipes.Close()
	p.streams.close()
}

// wait returns a process's exit code when it has ended.
func (p *process) wait(ctx context.Context) (int, error) {
	select {
	case <-p.child.Done():
		return p.child.ExitCode(), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// tell takes note that the status was told.
func (p *process) tell() { p.telling.Do(func() { close(p.told) }) }

// awaitReaders returns when both streams have been read to their ends, or after a limit.
func (p *process) awaitReaders(limit time.Duration) {
	over := time.After(limit)
	for _, stream := range []*reader{p.streams.stdout, p.streams.stderr} {
		select {
		case <-stream.over:
		case <-over:
			return
		case <-p.dropped:
			return
		}
	}
}

// drop lets go of a process that nobody finds any more. Once, under the container's lock.
func (p *process) drop() {
	p.streams.close()
	close(p.dropped)
}

func (p *process) ended() bool {
	select {
	case <-p.child.Done():
		return true
	default:
		return false
	}
}

// pidfd returns a descriptor of the process, which must not have ended.
func (p *process) pidfd() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.child.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.child.Pid, err)
	}
	if p.ended() { // so the number may have been another's
		unix.Close(fd)
		return nil, fmt.Errorf("open process %d: %w", p.child.Pid, unix.ESRCH)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}
