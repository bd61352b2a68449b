package container

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
)

// The pid namespace that containers of a sandbox may share is that of the first one of them, as Kata's agent has it: in a pod
// that one only waits. With its first process that namespace ends, with all who are in it, and the next container brings a new
// one. A container that joins has no process whose end is that of all others. Its cgroup tells which they are, and ends them.

// pidSpace returns the process whose pid namespace a container is to share, or nil where it gets one of its own.
func (m *Manager) pidSpace(c *container, shared bool) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, made := m.first, m.first != nil && m.containers[m.first.id] == m.first
	switch {
	case first == nil || made && first.init.ended():
		m.first = c
		return nil, nil
	case !shared:
		return nil, nil
	case m.Cgroups == nil:
		return nil, fault.Unimplemented("a pid namespace that containers share, in a guest without cgroups")
	case !made:
		return nil, fault.New(codes.FailedPrecondition, "container %s, whose pid namespace is to be shared, is not made yet", first.id)
	}
	pidfd, err := first.init.pidfd()
	c.joined = err == nil
	return pidfd, err
}

// left has the next container bring the pid namespace that is shared, if this one did. Under the manager's lock.
func (m *Manager) left(c *container) {
	if m.first == c {
		m.first = nil
	}
}

// follow ends what is left of a container once its first process has ended, as the kernel does where that is the first of a
// pid namespace.
func (c *container) follow() {
	if !c.joined {
		return
	}
	go func() {
		<-c.init.child.Done()
		c.cgroup.Kill() // an error is that the cgroup was removed
	}()
}

// kill ends all processes and waits for their end: with the first one the kernel ends all others of its pid namespace.
func (c *container) kill(ctx context.Context) error {
	if c.init == nil {
		return nil
	}
	if c.joined {
		return c.killJoined(ctx)
	}
	if err := c.init.child.Signal(unix.SIGKILL); err != nil && err != unix.ESRCH {
		return err
	}
	_, err := c.init.wait(ctx)
	return err
}

func (c *container) killJoined(ctx context.Context) error {
	err := c.cgroup.Kill()
	if err == nil {
		_, err = c.init.wait(ctx)
	}
	if err == nil {
		err = c.cgroup.Wait(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == gone { // somebody else has removed it, and its cgroup
		return nil
	}
	return err
}
