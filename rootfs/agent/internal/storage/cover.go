package storage

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mirror"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
)

// cover is a tmpfs on a directory of the share, with all mount points of watchable storages there, and their copies: on the
// share they would be the host's. Whatever is done in it asks nobody but the kernel.
type cover struct {
	made  chan struct{} // closed when what follows is set
	err   error
	root  *safepath.Root
	mount *os.File
	names map[string]bool // its users, with the manager's lock
}

const coverOptions = "size=64m,nr_inodes=8192,mode=755"

// takeCover returns the cover of a directory, with a name in it that is the caller's. To make one is to ask the host for the
// directory: whoever comes meanwhile waits, with no lock.
func (m *Manager) takeCover(ctx context.Context, directory, name string) (*cover, error) {
	m.mu.Lock()
	c := m.covers[directory]
	first := c == nil
	if first {
		c = &cover{made: make(chan struct{}), names: map[string]bool{}}
		if m.covers == nil {
			m.covers = map[string]*cover{}
		}
		m.covers[directory] = c
	}
	taken := c.names[name]
	c.names[name] = true
	m.mu.Unlock()
	if taken {
		return nil, fault.New(codes.AlreadyExists, "%s/%s is being mounted", directory, name)
	}
	if first {
		c.err = c.make(m.Base, directory)
		close(c.made)
	}
	var err error
	select {
	case <-c.made:
		err = c.err
	case <-ctx.Done():
		err = fmt.Errorf("the directory %s of the share: %w", directory, ctx.Err())
	}
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.leaveCoverLocked(c, directory, name)
		return nil, err
	}
	return c, nil
}

// leaveCoverLocked gives a name up. With its last one a cover goes.
func (m *Manager) leaveCoverLocked(c *cover, directory, name string) {
	delete(c.names, name)
	if len(c.names) > 0 {
		return
	}
	delete(m.covers, directory)
	if c.root != nil {
		_ = mount.Detach(c.mount) // the sandbox's end unmounts what is left
		c.root.Close()
	}
}

func (c *cover) make(base, directory string) error {
	relative, err := safepath.Below(base, directory)
	if err != nil {
		return err
	}
	options, err := mount.ParseOptions([]string{coverOptions})
	if err != nil {
		return err
	}
	root, err := safepath.Open(base, safepath.Strict)
	if err != nil {
		return err
	}
	defer root.Close()
	target, err := root.Mkdir(relative, 0o755)
	if err != nil {
		return err
	}
	defer target.Close()
	mounted, err := mount.New("tmpfs", "watchable", options)
	if err != nil {
		return err
	}
	made := safepath.At(mounted, safepath.Strict)
	err = mirror.Prepare(made)
	if err == nil {
		err = mount.Place(mounted, target, mount.Options{})
	}
	if err != nil {
		made.Close()
		return err
	}
	c.root, c.mount = made, mounted
	return nil
}

// spot makes the file or directory that something is to be mounted on, and opens it.
func (c *cover) spot(name string, directory bool) (*os.File, error) {
	var err error
	if directory {
		err = unix.Mkdirat(c.root.Fd(), name, 0o755)
	} else {
		err = unix.Mknodat(c.root.Fd(), name, unix.S_IFREG|0o644, 0)
	}
	if err != nil {
		return nil, &os.PathError{Op: "make", Path: name, Err: err}
	}
	return c.root.Open(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
}

func (c *cover) clear(name string) {
	if unix.Unlinkat(c.root.Fd(), name, unix.AT_REMOVEDIR) == unix.ENOTDIR {
		_ = unix.Unlinkat(c.root.Fd(), name, 0) // what is left goes with the cover
	}
}
