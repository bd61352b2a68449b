package mirror

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/safepath"
)

// Interval is how often a source is looked at, as Kata's agent does.
const Interval = 2 * time.Second

// Mirror is a copy that follows its source.
type Mirror struct {
	source Source
	done   chan struct{}

	mu      sync.Mutex // never held while the source is read: the host may not answer
	place   place
	stopped bool
}

// Prepare makes a file system one that copies can be in.
func Prepare(root *safepath.Root) error {
	for _, name := range []string{fresh, copies} {
		if err := unix.Mkdirat(root.Fd(), name, 0o700); err != nil && err != unix.EEXIST {
			return err
		}
	}
	return nil
}

// New returns a mirror whose copy has a name in a file system that is prepared. Nothing is copied yet.
func New(source Source, root *safepath.Root, name string) *Mirror {
	return &Mirror{source: source, done: make(chan struct{}), place: place{root, name, tree{}}}
}

// Update copies what has changed. With ErrTooMuch nothing is.
func (m *Mirror) Update() error { return m.update(func() {}) }

func (m *Mirror) update(pause func()) error {
	m.mu.Lock()
	known := maps.Clone(m.place.known)
	m.mu.Unlock()
	found, err := m.source.settled(known, pause)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return nil
	}
	if was, there := m.place.known[""]; there && was.kind != found[""].kind {
		return fault.Invalid("%s is not what it was, a file or a directory", m.source.Path)
	}
	return m.place.bring(found)
}

// Copy opens the copy, as it is to be mounted.
func (m *Mirror) Copy() (*os.File, error) {
	return m.place.root.Open(m.place.path(""), unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// rest is how long after a change it is looked at once more: what a share says of names and attributes may be a second old
// (the time-outs of virtiofsd), and thus two looks at once the same.
func rest(interval time.Duration) time.Duration { return interval * 11 / 20 }

// Follow has the copy follow its source from now on. A source that has become too large or that can't be read leaves the
// copy as it is.
func (m *Mirror) Follow(interval time.Duration) {
	last := ""
	for m.wait(interval) {
		text := ""
		if err := m.update(func() { m.wait(rest(interval)) }); err != nil && !errors.Is(err, errMoving) {
			text = err.Error()
		}
		if text != "" && text != last {
			slog.Warn("a copy does not follow its source", "source", m.source.Path, "error", text)
		}
		last = text
	}
}

// wait tells whether the mirror goes on after a while.
func (m *Mirror) wait(while time.Duration) bool {
	select {
	case <-m.done:
		return false
	case <-time.After(while):
		return true
	}
}

// Stop ends the mirror and removes its copy. A look at the source that the host leaves without an answer is not waited for.
func (m *Mirror) Stop() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return nil
	}
	m.stopped = true
	close(m.done)
	return os.RemoveAll(path.Join(fmt.Sprintf("/proc/self/fd/%d", m.place.root.Fd()), m.place.path("")))
}
