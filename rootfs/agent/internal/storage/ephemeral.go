package storage

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
)

// Update remounts ephemeral storages with other options, such as the size that goes with a guest's new memory.
func (m *Manager) Update(storages []*api.Storage) error {
	if len(storages) > maxStorages {
		return fault.Invalid("%d storages", len(storages))
	}
	for _, s := range storages {
		if err := m.update(s); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) update(s *api.Storage) error {
	if s.Driver != "ephemeral" {
		return fault.Invalid("a storage of driver %q can't be updated: only ephemeral ones are", s.Driver)
	}
	relative, err := safepath.Below(m.Base, s.MountPoint)
	if err != nil {
		return err
	}
	if !m.has(filepath.Join(m.Base, relative), s.Driver) {
		return fault.New(codes.NotFound, "no ephemeral storage is mounted on %q", s.MountPoint)
	}
	options, err := changes(s.Options)
	if err != nil {
		return err
	}
	return m.remount(relative, options)
}

func (m *Manager) has(point, driver string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.mounted[point]
	return known != nil && known.driver == driver
}

// changes are the options to remount with: those that say no more than that it is a remount are left out, and so is the
// group, which a volume has from its first mount on.
func changes(lists []string) (mount.Options, error) {
	var wanted []string
	for _, list := range lists {
		for option := range strings.SplitSeq(list, ",") {
			if option != "remount" && !strings.HasPrefix(option, groupOption) {
				wanted = append(wanted, option)
			}
		}
	}
	options, err := mount.ParseOptions(wanted)
	if err == nil && (options.Bind || options.Propagation != 0) {
		err = fault.Invalid("neither a bind mount nor a propagation is an option to remount with: %q", lists)
	}
	return options, err
}

// remount opens the mount point, which may be on a share that the host can stop: nothing is locked here.
func (m *Manager) remount(relative string, options mount.Options) error {
	target, err := safepath.OpenBelow(m.Base, relative, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer target.Close()
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(target.Fd()), &system); err != nil {
		return err
	}
	if system.Type != unix.TMPFS_MAGIC { // hugetlbfs takes a remount, and makes nothing of it
		return fault.Unimplemented("another size of a file system that is no tmpfs, on %s", target.Name())
	}
	if err := mount.Reconfigure(target, options); err != nil {
		return err
	}
	slog.Info("storage remounted", "on", target.Name(), "options", slices.Concat(options.Superblock, options.Data))
	return nil
}
