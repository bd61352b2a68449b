package storage

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mirror"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
)

// By this driver Kata's runtimes have a container see changes of a small volume on a virtio-fs share, and be told of them.
const watchableBind = "watchable-bind"

const (
	shared    = "shared/containers" // below the base: the share
	watchable = "watchable"         // where runtimes have the mount points of these storages
)

// watched is a mounted storage of that driver.
type watched struct {
	cover           *cover
	directory, name string
	mirror          *mirror.Mirror
	mount           *os.File
	copied          bool // what is mounted is the mirror's copy
}

func watchableDriver(_ context.Context, m *Manager, s *api.Storage) (string, string, error) {
	directory, name := path.Split(path.Clean(s.MountPoint))
	if path.Base(directory) != watchable || strings.HasPrefix(name, ".") {
		return "", "", fault.Invalid("the mount point of a %s storage lies in a directory %s: %q", watchableBind, watchable, s.MountPoint)
	}
	below := path.Join(m.Base, shared)
	relative, err := safepath.Below(below, s.Source)
	if err != nil || relative == "." {
		return "", "", fault.Invalid("the source of a %s storage is not below %s: %q", watchableBind, below, s.Source)
	}
	return path.Join(shared, relative), "bind", expectType(s, "bind")
}

// watch mounts a copy of the source, a path below the base, and has it follow; a source that is too much to copy is mounted
// itself. The source is on a share that the host can stop: nothing is locked here.
func (m *Manager) watch(ctx context.Context, s *api.Storage, source, point string) (*watched, error) {
	options, err := mount.ParseOptions(s.Options)
	if err != nil {
		return nil, err
	}
	if len(options.Data) > 0 {
		return nil, fault.Invalid("not an option of a %s storage: %q", watchableBind, options.Data[0])
	}
	w := &watched{directory: path.Dir(point), name: path.Base(point)}
	if w.cover, err = m.takeCover(ctx, w.directory, w.name); err != nil {
		return nil, err
	}
	w.mirror = mirror.New(mirror.Source{Base: m.Base, Path: source}, w.cover.root, w.name)
	if err := w.bind(m.Base, source, options); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		return nil, errors.Join(err, m.unwatchLocked(w))
	}
	return w, nil
}

func (w *watched) bind(base, source string, options mount.Options) error {
	origin, err := w.origin(base, source)
	if err != nil {
		return err
	}
	defer origin.Close()
	info, err := origin.Stat()
	if err != nil {
		return err
	}
	spot, err := w.cover.spot(w.name, info.IsDir())
	if err != nil {
		return err
	}
	defer spot.Close()
	mounted, err := mount.Clone(origin, options)
	if err != nil {
		return err
	}
	if err := mount.Place(mounted, spot, options); err != nil {
		mounted.Close()
		return err
	}
	w.mount = mounted
	return nil
}

// origin opens what is to be mounted: the copy, or the source.
func (w *watched) origin(base, source string) (*os.File, error) {
	err := w.mirror.Update()
	if w.copied = err == nil; w.copied {
		return w.mirror.Copy()
	}
	if !errors.Is(err, mirror.ErrTooMuch) {
		return nil, err
	}
	slog.Warn("a volume is not watched", "source", source, "reason", err)
	return safepath.OpenBelow(base, source, unix.O_PATH)
}

// unwatchLocked takes a storage away. It waits for nobody: all that it does is in the cover.
func (m *Manager) unwatchLocked(w *watched) error {
	var err error
	if w.mount != nil {
		err = mount.Detach(w.mount)
	}
	err = errors.Join(err, w.mirror.Stop())
	w.cover.clear(w.name)
	m.leaveCoverLocked(w.cover, w.directory, w.name)
	return err
}

func (m *Manager) interval() time.Duration {
	if m.Interval == 0 {
		return mirror.Interval
	}
	return m.Interval
}
