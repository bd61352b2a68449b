package container

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/cgroup"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/safepath"
	"guestforge.dev/agent/internal/spaces"
	"guestforge.dev/agent/internal/storage"
)

// Manager has the containers of the sandbox.
type Manager struct {
	Base     string // below which each container has its directory, and all storages are
	Storage  *storage.Manager
	Launcher *Launcher
	Cgroups  *cgroup.Tree                   // nil: nothing is limited
	Spaces   func() (*spaces.Shared, error) // which all containers are in, for the caller to close

	mu         sync.Mutex
	containers map[string]*container // nil while one is being made
	first      *container            // whose pid namespace others may share
}

// Directories below the base that are no container's.
var reserved = map[string]bool{"shared": true, "sandbox": true, "image": true}

// Create makes a container, whose first process waits to be started.
func (m *Manager) Create(ctx context.Context, r *api.CreateContainerRequest) error {
	if err := safepath.CheckID(r.ContainerId); err != nil || reserved[r.ContainerId] {
		return fault.Invalid("container id %q: %v", r.ContainerId, err)
	}
	if err := check(r, m.Base, m.Cgroups != nil); err != nil {
		return err
	}
	if err := m.reserve(r.ContainerId); err != nil {
		return err
	}
	c := &container{
		id: r.ContainerId, initID: r.ExecId, bundle: filepath.Join(m.Base, r.ContainerId), execs: map[string]*process{},
		pending: map[string]bool{}, seccomp: r.OCI.Linux.GetSeccomp(),
	}
	err := m.build(ctx, c, r)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		delete(m.containers, c.id)
		m.left(c)
		return errors.Join(err, m.clear(c))
	}
	m.containers[c.id] = c
	return nil
}

func (m *Manager) reserve(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.containers[id]; taken {
		return fault.New(codes.AlreadyExists, "container %s exists", id)
	}
	if m.containers == nil {
		m.containers = map[string]*container{}
	}
	m.containers[id] = nil
	return nil
}

func (m *Manager) get(id string) (*container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.containers[id]; c != nil {
		return c, nil
	}
	return nil, fault.New(codes.NotFound, "no container %q", id)
}

func (m *Manager) process(id, exec string) (*process, error) {
	c, err := m.get(id)
	if err != nil {
		return nil, err
	}
	return c.find(exec)
}

// Start lets a container's first process run its program.
func (m *Manager) Start(id string) error {
	c, err := m.get(id)
	if err != nil {
		return err
	}
	return c.start(m.Launcher.Timeout)
}

// Exec runs one more process in a container.
func (m *Manager) Exec(r *api.ExecProcessRequest) error {
	if err := safepath.CheckID(r.ExecId); err != nil {
		return fault.Invalid("process id: %v", err)
	}
	if err := checkProcess(r.Process); err != nil {
		return err
	}
	if err := checkFields(&api.Spec{Process: r.Process}); err != nil {
		return err
	}
	c, err := m.get(r.ContainerId)
	if err != nil {
		return err
	}
	return c.exec(m.Launcher, r.ExecId, r.Process)
}

// Wait returns a process's exit code when it has ended.
func (m *Manager) Wait(ctx context.Context, id, exec string) (int, error) {
	p, err := m.process(id, exec)
	if err != nil {
		return 0, err
	}
	code, err := p.wait(ctx)
	if err == nil {
		p.tell()
	}
	return code, err
}

// Signal signals one process. With the first one all others of a container end.
func (m *Manager) Signal(id, exec string, signal uint32) error {
	if signal > 64 { // 0 asks whether there is such a process
		return fault.Invalid("signal %d", signal)
	}
	c, err := m.get(id)
	if err != nil {
		return err
	}
	p, err := c.find(exec)
	if err != nil {
		return err
	}
	if p == c.init {
		return c.signalInit(unix.Signal(signal))
	}
	return signalOne(p, unix.Signal(signal))
}

// Stdout reads a process's output, Stderr its other one.
func (m *Manager) Stdout(ctx context.Context, r *api.ReadStreamRequest) ([]byte, error) {
	return m.read(ctx, r, func(s *streams) *reader { return s.stdout })
}

// Stderr is described at Stdout.
func (m *Manager) Stderr(ctx context.Context, r *api.ReadStreamRequest) ([]byte, error) {
	return m.read(ctx, r, func(s *streams) *reader { return s.stderr })
}

func (m *Manager) read(ctx context.Context, r *api.ReadStreamRequest, which func(*streams) *reader) ([]byte, error) {
	p, err := m.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if r.Len == 0 { // its answer would look like the end of the stream
		return nil, fault.Invalid("a read of no bytes")
	}
	return which(p.streams).read(ctx, r.Len)
}

// WriteStdin writes to a process's input; it waits for room. No bytes at all are its end, as Kata's runtime-rs says it.
func (m *Manager) WriteStdin(ctx context.Context, r *api.WriteStreamRequest) (int, error) {
	p, err := m.process(r.ContainerId, r.ExecId)
	if err != nil {
		return 0, err
	}
	if len(r.Data) == 0 {
		p.streams.stdin.Close()
		return 0, nil
	}
	n, err := write(ctx, p.streams.stdin, r.Data)
	if err != nil && n == 0 {
		return 0, fault.New(codes.FailedPrecondition, "write to the process: %v", err)
	}
	return n, nil
}

// CloseStdin ends a process's input.
func (m *Manager) CloseStdin(id, exec string) error {
	p, err := m.process(id, exec)
	if err != nil {
		return err
	}
	p.streams.stdin.Close() // once is enough: a second time is no error of the caller's
	return nil
}

// Remove ends a container's processes and takes it away. seconds bounds the wait for their end; 0 leaves it to the caller.
func (m *Manager) Remove(ctx context.Context, id string, seconds uint32) error {
	c, err := m.get(id)
	if err != nil {
		return err
	}
	if seconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		defer cancel()
	}
	if err := c.kill(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	if m.containers[id] != c {
		m.mu.Unlock()
		return fault.New(codes.NotFound, "no container %q", id)
	}
	m.containers[id] = nil // nobody finds it any more, and its name is not yet free
	m.left(c)
	m.mu.Unlock()
	err = m.clear(c)
	m.mu.Lock()
	delete(m.containers, id)
	m.mu.Unlock()
	return err
}

// RemoveAll removes all containers, as far as it goes within the limit of the context.
func (m *Manager) RemoveAll(ctx context.Context) {
	m.mu.Lock()
	var ids []string
	for id, c := range m.containers {
		if c != nil {
			ids = append(ids, id)
		}
	}
	m.mu.Unlock()
	for _, id := range ids {
		if err := m.Remove(ctx, id, 0); err != nil {
			slog.Warn("container not removed", "container", id, "error", err)
		}
	}
}
