package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/device"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
)

// maxStorages bounds a request; a pod has some dozens.
const maxStorages = 1024

// Manager knows what is mounted below its base. Several storages may name one mount point: it is mounted once.
type Manager struct {
	Base    string
	Devices *device.Finder

	Interval time.Duration // at which watchable storages are looked at; 0 is Kata's
	Memory   Memory        // is told of what becomes huge pages; nil: nobody is

	pools sync.Mutex // of the kernel's pools of huge pages

	looking atomic.Bool // at the mounts of the share, and the host may never answer

	mu      sync.Mutex
	mounted map[string]*mounted
	shared  Set // what the sandbox uses as well, until its end
	covers  map[string]*cover
}

type mounted struct {
	driver, source string
	users          int
	shared         bool     // the sandbox is one of its users
	real           bool     // false: a directory alone
	watched        *watched // of a watchable storage
	pages          pages    // that a hugetlbfs has reserved
}

// Set is the storages of one sandbox or container, by their mount points, in the order in which they were mounted.
type Set []string

// Mount mounts storages. Where one fails, those before it are unmounted again.
func (m *Manager) Mount(ctx context.Context, storages []*api.Storage) (Set, error) {
	if len(storages) > maxStorages {
		return nil, fault.Invalid("%d storages", len(storages))
	}
	var done Set
	for _, s := range storages {
		point, err := m.mountOne(ctx, s)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("storage %q on %q: %w", s.Source, s.MountPoint, err), m.Unmount(done))
		}
		done = append(done, point)
	}
	m.share(storages, done)
	return done, nil
}

// share makes the sandbox a user of storages that several of its containers have: one may end before the next comes, and
// what such a volume holds is to be there still.
func (m *Manager) share(storages []*api.Storage, set Set) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, s := range storages {
		if known := m.mounted[set[i]]; s.Shared && !known.shared {
			known.shared = true
			known.users++
			m.shared = append(m.shared, set[i])
		}
	}
}

// UnmountShared gives up, at the sandbox's end, what it has used beside its containers.
func (m *Manager) UnmountShared() error {
	m.mu.Lock()
	set := m.shared
	m.shared = nil
	m.mu.Unlock()
	return m.Unmount(set)
}

func (m *Manager) mountOne(ctx context.Context, s *api.Storage) (string, error) {
	if drivers[s.Driver] == nil {
		return "", fault.Unimplemented("storage driver %q", s.Driver)
	}
	relative, err := safepath.Below(m.Base, s.MountPoint)
	if err != nil || relative == "." {
		return "", fault.Invalid("mount point %q is not below %s", s.MountPoint, m.Base)
	}
	point := filepath.Join(m.Base, relative)
	if joined, err := m.join(point, s); joined || err != nil {
		return point, err
	}
	source, fstype, err := drivers[s.Driver](ctx, m, s) // it may wait for a disk, and nobody waits for that
	if err != nil {
		return "", err
	}
	if s.Driver == watchableBind {
		return point, m.mountWatched(ctx, s, source, point)
	}
	if fstype == hugetlbfs {
		return point, m.mountPages(s, source, relative, point)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if joined, err := m.joinLocked(point, s); joined || err != nil {
		return point, err
	}
	if err := m.attach(s, source, fstype, relative); err != nil {
		return "", err
	}
	m.enterLocked(point, &mounted{driver: s.Driver, source: s.Source, real: fstype != ""})
	return point, nil
}

func (m *Manager) mountWatched(ctx context.Context, s *api.Storage, source, point string) error {
	w, err := m.watch(ctx, s, source, point)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enterLocked(point, &mounted{driver: s.Driver, source: s.Source, watched: w})
	if w.copied {
		go w.mirror.Follow(m.interval())
	}
	return nil
}

// enterLocked counts the first user of a storage that has just been mounted.
func (m *Manager) enterLocked(point string, one *mounted) {
	if m.mounted == nil {
		m.mounted = map[string]*mounted{}
	}
	one.users = 1
	m.mounted[point] = one
	slog.Info("storage mounted", "driver", one.driver, "source", one.source, "on", point)
}

// join counts one more user of a storage that is mounted already; false where its point is free.
func (m *Manager) join(point string, s *api.Storage) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.joinLocked(point, s)
}

func (m *Manager) joinLocked(point string, s *api.Storage) (bool, error) {
	known := m.mounted[point]
	if known == nil {
		return false, nil
	}
	if known.driver != s.Driver || known.source != s.Source {
		return false, fault.New(codes.AlreadyExists, "%s has another storage", point)
	}
	known.users++
	return true, nil
}

// attach makes a mount point and mounts a file system on it; without a type it is a directory alone.
func (m *Manager) attach(s *api.Storage, source, fstype, relative string) error {
	root, err := safepath.Open(m.Base, safepath.Strict)
	if err != nil {
		return err
	}
	defer root.Close()
	owner := ownership{mode: 0o755, gid: nobody}
	if fstype == "" {
		if owner, err = parseOwnership(s.Options, owner.mode); err != nil {
			return err
		}
	}
	target, err := root.Mkdir(relative, owner.mode)
	if err != nil {
		return err
	}
	defer target.Close()
	if fstype == "" {
		return give(target, owner)
	}
	options, err := mountOptions(s, fstype)
	if err != nil {
		return err
	}
	if fstype == "overlay" {
		opened, err := m.openLayers(options.Data)
		defer closeAll(opened)
		if err != nil {
			return err
		}
	}
	if options.Bind {
		return fault.Invalid("a bind mount is no storage of driver %s", s.Driver)
	}
	mounted, err := mount.New(fstype, source, options)
	if err != nil {
		return err
	}
	defer mounted.Close()
	if fstype == hugetlbfs {
		if err := keepGroup(mounted, options); err != nil {
			return err
		}
	}
	return mount.Place(mounted, target, options)
}

func mountOptions(s *api.Storage, fstype string) (mount.Options, error) {
	options, err := mount.ParseOptions(s.Options)
	if err == nil {
		options.Data, err = grouped(fstype, options.Data)
	}
	return options, err
}

// give changes group and mode of what an O_PATH descriptor has open, which fchmod(2) does not.
func give(file *os.File, owner ownership) error {
	fd, err := unix.Openat(int(file.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, nobody, owner.gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, owner.mode) // after that: a new group clears some of it
}

// Unmount gives up storages, the last one first, and unmounts those that nobody else uses.
func (m *Manager) Unmount(set Set) error {
	freed, err := m.unmount(set)
	for _, each := range freed { // nobody waits for the kernel's pools
		err = errors.Join(err, m.release(each))
	}
	return err
}

// unmount is Unmount, but for the huge pages, which it returns.
func (m *Manager) unmount(set Set) (freed []pages, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, point := range slices.Backward(set) {
		known := m.mounted[point]
		if known == nil {
			continue
		}
		if known.users--; known.users > 0 {
			continue
		}
		delete(m.mounted, point)
		if known.real {
			errs = append(errs, mount.UnmountBelow(m.Base, point))
		}
		if known.watched != nil {
			errs = append(errs, m.unwatchLocked(known.watched))
		}
		freed = append(freed, known.pages)
	}
	return freed, errors.Join(errs...)
}
