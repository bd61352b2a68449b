// Package sandbox is the one sandbox of a guest: its directory, its storages, its name and name servers.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/container"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
	"guestforge.dev/agent/internal/spaces"
	"guestforge.dev/agent/internal/storage"
)

// Base is where runtimes expect all that they share with a guest.
const Base = "/run/kata-containers"

// killTimeout bounds how long the end of a sandbox waits for the ends of its processes.
const killTimeout = 5 * time.Second

// Sandbox is what CreateSandbox makes and DestroySandbox ends.
type Sandbox struct {
	Base       string
	ResolvConf string // the guest's, over which the sandbox's is bound; empty: it is left alone
	Storage    *storage.Manager
	Containers *container.Manager

	making sync.Mutex // Create and Destroy, one at a time: they may wait for a disk, or for the end of a process

	mu       sync.Mutex // what follows, never for long
	running  bool
	spaces   *spaces.Shared
	storages storage.Set
	resolver bool // the sandbox's resolv.conf is bound
}

// Create makes the sandbox. A failed attempt leaves nothing, so a runtime may ask again.
func (s *Sandbox) Create(ctx context.Context, r *api.CreateSandboxRequest) error {
	s.making.Lock()
	defer s.making.Unlock()
	if s.Running() == nil {
		return fault.New(codes.AlreadyExists, "there is a sandbox: an agent has one")
	}
	if err := check(r); err != nil {
		return err
	}
	if err := wipe(s.Base); err != nil {
		return err
	}
	storages, err := s.Storage.Mount(ctx, r.Storages)
	if err != nil {
		return err
	}
	shared, err := s.furnish(r)
	if err != nil {
		return errors.Join(err, s.unmount(storages))
	}
	shared.PID = r.SandboxPidns
	s.mu.Lock()
	s.storages, s.spaces, s.running = storages, shared, true
	s.mu.Unlock()
	slog.Info("sandbox created", "id", r.SandboxId, "storages", len(storages))
	return nil
}

// furnish makes what follows the storages, for a storage may have the hooks. A failed attempt leaves nothing.
func (s *Sandbox) furnish(r *api.CreateSandboxRequest) (*spaces.Shared, error) {
	if err := refuseHooks(r.GuestHookPath); err != nil {
		return nil, err
	}
	if err := s.setResolver(r.Dns); err != nil {
		return nil, err
	}
	shared, err := spaces.New(r.Hostname)
	if err != nil {
		return nil, errors.Join(err, s.resetResolver())
	}
	return shared, nil
}

// unmount unmounts the sandbox's storages. Those that its containers shared came later, and may be in them.
func (s *Sandbox) unmount(storages storage.Set) error {
	return errors.Join(s.Storage.UnmountShared(), s.Storage.Unmount(storages))
}

func check(r *api.CreateSandboxRequest) error {
	switch {
	case len(r.Hostname) > 64 || strings.IndexByte(r.Hostname, 0) >= 0:
		return fault.Invalid("a host name of more than 64 bytes")
	case len(r.Dns) > 64:
		return fault.Invalid("%d lines of name servers", len(r.Dns))
	}
	for _, line := range r.Dns {
		if len(line) > 1024 || strings.ContainsAny(line, "\x00\n\r") {
			return fault.Invalid("not a line of resolv.conf: %.80q", line)
		}
	}
	return nil
}

// wipe makes the base anew. What is mounted there, by an agent before this one, is unmounted first: removing it with
// the rest would remove the host's files.
func wipe(base string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	for _, target := range mount.Below(table, base) {
		if err := mount.Unmount(target); err != nil {
			return err
		}
	}
	if table, err = mount.Table(); err != nil {
		return err
	}
	if left := mount.Below(table, base); len(left) > 0 {
		return fmt.Errorf("still mounted: %v", left)
	}
	if err := os.RemoveAll(base); err != nil {
		return err
	}
	return os.MkdirAll(base, 0o755)
}

// setResolver binds a resolv.conf of the sandbox's over the guest's, which may be on a read-only file system.
func (s *Sandbox) setResolver(lines []string) error {
	if len(lines) == 0 || s.ResolvConf == "" {
		return nil
	}
	source, err := s.resolverFile(strings.Join(lines, "\n") + "\n")
	if err != nil {
		return err
	}
	defer source.Close()
	fd, err := unix.Open(s.ResolvConf, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.ResolvConf, Err: err}
	}
	target := os.NewFile(uintptr(fd), s.ResolvConf)
	defer target.Close()
	if err := mount.Bind(source, target, mount.Options{}); err != nil {
		return err
	}
	s.resolver = true
	return nil
}

// resolverFile writes the sandbox's resolv.conf, and returns it opened with O_PATH. A storage may be mounted where it is.
func (s *Sandbox) resolverFile(text string) (*os.File, error) {
	root, err := safepath.Open(s.Base, safepath.Strict)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file, err := root.File("sandbox/resolv.conf", 0o644)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.Invalid("%s is not a file", file.Name())
	}
	if err == nil {
		err = os.WriteFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), []byte(text), 0)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (s *Sandbox) resetResolver() error {
	if !s.resolver {
		return nil
	}
	s.resolver = false
	return mount.Unmount(s.ResolvConf)
}

// Running returns an error unless there is a sandbox.
func (s *Sandbox) Running() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isRunning()
}

// isRunning is Running under the lock.
func (s *Sandbox) isRunning() error {
	if !s.running {
		return fault.New(codes.FailedPrecondition, "there is no sandbox: CreateSandbox comes first")
	}
	return nil
}

// Spaces returns the namespaces that containers share, for the caller to close.
func (s *Sandbox) Spaces() (*spaces.Shared, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.isRunning(); err != nil {
		return nil, err
	}
	return s.spaces.Copy()
}

// Destroy ends all containers and unmounts all storages, with all that was written to them.
func (s *Sandbox) Destroy() error {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	s.making.Lock()
	defer s.making.Unlock()
	s.Containers.RemoveAll(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.spaces.Close()
	}
	err := errors.Join(s.resetResolver(), s.unmount(s.storages))
	s.running, s.storages, s.spaces = false, nil, nil
	unix.Sync()
	return err
}
