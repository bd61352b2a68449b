// Package container runs containers: one first process each, in namespaces of its own, and more processes beside it.
package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/cgroup"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
	"guestforge.dev/agent/internal/shim"
	"guestforge.dev/agent/internal/storage"
)

// container is a created container, until it is removed. Its mutex guards its processes, and is not held while anything
// is waited for.
type container struct {
	id, initID string // what CreateContainer called the first process, besides ""
	bundle     string
	storages   storage.Set
	cgroup     *cgroup.Cgroup
	joined     bool              // its pid namespace is another container's
	seccomp    *api.LinuxSeccomp // which holds for all its processes

	mu      sync.Mutex
	init    *process
	state   state
	paused  bool
	execs   map[string]*process
	pending map[string]bool // ids of processes that are being started, and not in execs yet

	freezer sync.Mutex // one pause or resumption at a time, each of which takes a while
}

// state is how far a container is, but for the end of its first process.
type state int

const (
	created state = iota
	starting
	started
	gone
)

// build mounts what a container needs, and starts its first process, which waits.
func (m *Manager) build(ctx context.Context, c *container, r *api.CreateContainerRequest) error {
	var err error
	if c.storages, err = m.Storage.Mount(ctx, r.Storages); err != nil {
		return err
	}
	rootfs, err := m.bindRoot(c, r.OCI.Root.Path)
	if err != nil {
		return err
	}
	spec := proto.CloneOf(r.OCI)
	spec.Root.Path = rootfs
	shared, err := m.Spaces()
	if err != nil {
		return err
	}
	defer shared.Close()
	pidfd, err := m.pidSpace(c, r.SandboxPidns || shared.PID)
	if err != nil {
		return err
	}
	defer pidfd.Close() // nil is not open
	if spec.Hostname == shared.Hostname {
		spec.Hostname = "" // it is there already
	}
	if c.cgroup, err = m.Cgroups.New(c.id, spec.Linux); err != nil {
		return err
	}
	c.init, err = m.Launcher.create(shim.InitName, spec, shim.Spaces{pidfd, shared.IPC, shared.UTS}, c.cgroup)
	if err == nil {
		c.follow()
	}
	return err
}

// bindRoot mounts a container's root at its place in the bundle, unless a storage of its own is there already.
func (m *Manager) bindRoot(c *container, path string) (string, error) {
	relative, err := safepath.Below(m.Base, path)
	if err != nil {
		return "", fault.Invalid("root of the container: %v", err)
	}
	root, err := safepath.Open(m.Base, safepath.Strict)
	if err != nil {
		return "", err
	}
	defer root.Close()
	source, err := root.Open(relative, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer source.Close()
	rootfs := filepath.Join(c.bundle, "rootfs")
	if filepath.Join(m.Base, relative) == rootfs {
		return rootfs, nil
	}
	target, err := root.Mkdir(c.id+"/rootfs", 0o755)
	if err != nil {
		return "", err
	}
	defer target.Close()
	options := mount.Options{Bind: true, Recursive: true}
	cloned, err := mount.Clone(source, options)
	if err != nil {
		return "", err
	}
	defer cloned.Close()
	return rootfs, mount.Place(cloned, target, options)
}

// start releases the first process.
func (c *container) start(limit time.Duration) error {
	c.mu.Lock()
	if c.state != created {
		c.mu.Unlock()
		return fault.New(codes.FailedPrecondition, "container %s was started before", c.id)
	}
	c.state = starting
	c.mu.Unlock()
	err := c.init.release(limit)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == starting {
		c.state = started
	}
	return err
}

// exec starts one more process in a running container. Others are served meanwhile: what runs in the container can make
// it last.
func (c *container) exec(l *Launcher, id string, process *api.Process) error {
	pidfd, err := c.reserve(id)
	if err != nil {
		return err
	}
	defer pidfd.Close()
	spec := &api.Spec{Process: process, Linux: &api.Linux{Seccomp: c.seccomp}}
	p, err := l.create(shim.ExecName, spec, shim.Spaces{pidfd}, c.cgroup)
	if err == nil {
		if err = p.release(l.Timeout); err != nil {
			p.streams.close()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
	if err != nil {
		return err
	}
	if c.state == gone || c.joined && c.init.ended() { // too late for those that end all processes
		p.abandon()
		return fault.New(codes.NotFound, "container %s has ended", c.id)
	}
	if before := c.execs[id]; before != nil {
		before.drop()
	}
	c.execs[id] = p
	go c.forget(id, p, l)
	return nil
}

// reserve takes an id for one more process, and returns the first one's pidfd.
func (c *container) reserve(id string) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.running(); err != nil {
		return nil, err
	}
	if c.paused { // a newcomer would be frozen on its way
		return nil, fault.New(codes.FailedPrecondition, "container %s is paused", c.id)
	}
	if other := c.execs[id]; id == c.initID || c.pending[id] || other != nil && !other.ended() {
		return nil, fault.New(codes.AlreadyExists, "container %s has a process %s", c.id, id)
	}
	pidfd, err := c.init.pidfd()
	if err == nil {
		c.pending[id] = true
	}
	return pidfd, err
}

// running returns an error unless the first process runs. Under the lock.
func (c *container) running() error {
	if c.state != started || c.init.ended() {
		return fault.New(codes.FailedPrecondition, "container %s does not run", c.id)
	}
	return nil
}

// find returns a process by its id; the first one has none, or the one that it was created with.
func (c *container) find(id string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == "" || id == c.initID {
		return c.init, nil
	}
	if p := c.execs[id]; p != nil {
		return p, nil
	}
	return nil, fault.New(codes.NotFound, "container %s has no process %s", c.id, id)
}

// forget takes away a process that has ended, once its status was told and its output has been read to the end, or
// nobody has done that for some time: each holds three pipes, and a runtime may never ask
// (https://github.com/kata-containers/agent/pull/880).
func (c *container) forget(id string, p *process, l *Launcher) {
	<-p.child.Done()
	select {
	case <-p.told:
		p.awaitReaders(l.Unread)
	case <-time.After(l.Unasked):
	case <-p.dropped:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[id] == p {
		delete(c.execs, id)
		p.drop()
	}
}

// clear takes away what is left of a container whose processes have ended.
func (m *Manager) clear(c *container) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = gone
	if c.init != nil {
		c.init.pipes.Close()
		c.init.streams.close()
	}
	for _, p := range c.execs {
		p.drop()
	}
	clear(c.execs)
	errs := []error{m.unmountRoot(c), m.Storage.Unmount(c.storages), c.cgroup.Remove()}
	for _, path := range []string{filepath.Join(c.bundle, "rootfs"), c.bundle} {
		// never what is in them: if an unmount failed that is a storage's content
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// unmountRoot unmounts what the agent has bound as a container's root. A storage there has users to count.
func (m *Manager) unmountRoot(c *container) error {
	path := filepath.Join(c.bundle, "rootfs")
	if slices.Contains(c.storages, path) {
		return nil
	}
	err := mount.UnmountBelow(m.Base, path)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // never mounted
		return nil
	}
	return err
}
