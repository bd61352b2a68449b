package mirror

import (
	"errors"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/safepath"
)

// Directories of the file system with the copies: of what is new until it is whole, and of the copies.
const (
	fresh  = ".new"
	copies = ".copies"
)

// place is where a copy is: below a root that is ours, and in a part of it that a container may write to.
type place struct {
	root  *safepath.Root
	name  string
	known tree // what is in the copy
}

// bring makes the copy what the tree is. Directories and files come first, then the links, by which a volume of Kubernetes
// goes from one state to the next, then what is not there any more goes. Each is replaced whole. What does not work out is
// tried again the next time.
func (p *place) bring(wanted tree) error {
	var errs []error
	for _, relative := range slices.Backward(sorted(p.known)) {
		if p.inTheWay(relative, wanted) {
			errs = append(errs, p.remove(relative))
		}
	}
	for _, kind := range []uint32{unix.S_IFDIR, unix.S_IFREG, unix.S_IFLNK} {
		for _, relative := range sorted(wanted) {
			e := wanted[relative]
			if known, there := p.known[relative]; e.kind != kind || there && known.stamp == e.stamp {
				continue
			}
			if err := p.put(relative, e); err != nil {
				errs = append(errs, err)
				continue
			}
			e.data = nil
			p.known[relative] = e
		}
	}
	for _, relative := range slices.Backward(sorted(p.known)) {
		if _, there := wanted[relative]; !there {
			errs = append(errs, p.remove(relative))
		}
	}
	return errors.Join(errs...)
}

func sorted(t tree) []string { return slices.Sorted(maps.Keys(t)) }

// inTheWay tells of a path that is, or is below, a directory that is to be something else, or the other way round.
func (p *place) inTheWay(relative string, wanted tree) bool {
	for at := relative; at != "" && at != "."; at = path.Dir(at) {
		e, there := wanted[at]
		if there && (e.kind == unix.S_IFDIR) != (p.known[at].kind == unix.S_IFDIR) {
			return true
		}
	}
	return false
}

func (p *place) path(relative string) string { return path.Join(copies, p.name, relative) }

// parent opens the directory that a path of the copy is in.
func (p *place) parent(relative string) (*os.File, error) {
	return p.root.Open(path.Dir(p.path(relative)), unix.O_PATH|unix.O_DIRECTORY, 0)
}

func (p *place) put(relative string, e entry) error {
	switch {
	case e.kind == unix.S_IFDIR:
		return p.putDirectory(relative, e)
	case relative == "":
		return p.rewrite(e)
	case e.kind == unix.S_IFLNK:
		return p.replace(relative, func(at *os.File) error {
			if err := unix.Symlinkat(e.target, int(at.Fd()), p.name); err != nil {
				return err
			}
			return unix.Fchownat(int(at.Fd()), p.name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW)
		})
	}
	return p.replace(relative, func(*os.File) error {
		flags := unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
		file, err := p.root.Open(path.Join(fresh, p.name), flags, 0o600)
		if err != nil {
			return err
		}
		_, err = file.Write(e.data)
		return errors.Join(err, own(file, e), file.Close())
	})
}

// replace makes something under another name, where no container sees it, and renames it to its place.
func (p *place) replace(relative string, make func(at *os.File) error) error {
	from, err := p.root.Open(fresh, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := p.parent(relative)
	if err != nil {
		return err
	}
	defer to.Close()
	err = make(from)
	if err == nil {
		err = unix.Renameat(int(from.Fd()), p.name, int(to.Fd()), path.Base(relative))
	}
	if err != nil {
		_ = unix.Unlinkat(int(from.Fd()), p.name, 0) // it may not have come to be
		return &os.PathError{Op: "copy", Path: relative, Err: err}
	}
	return nil
}

func (p *place) putDirectory(relative string, e entry) error {
	parent, err := p.parent(relative)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(p.path(relative)), 0o700); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "copy", Path: relative, Err: err}
	}
	directory, err := p.root.Open(p.path(relative), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer directory.Close()
	return own(directory, e)
}

// rewrite writes to a copy that is one file: a container has that file itself, so no other can take its place.
func (p *place) rewrite(e entry) error {
	file, err := p.root.Open(p.path(""), unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(e.data, 0); err != nil {
		return err
	}
	return errors.Join(file.Truncate(e.size), own(file, e))
}

// own changes the owner first: that takes set-user-ID bits away.
func own(file *os.File, e entry) error {
	if err := unix.Fchown(int(file.Fd()), int(e.uid), int(e.gid)); err != nil {
		return &os.PathError{Op: "owner", Path: file.Name(), Err: err}
	}
	return unix.Fchmod(int(file.Fd()), e.mode)
}

func (p *place) remove(relative string) error {
	parent, err := p.parent(relative)
	if err == nil {
		defer parent.Close()
		flags := 0
		if p.known[relative].kind == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		err = unix.Unlinkat(int(parent.Fd()), path.Base(relative), flags)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: relative, Err: err}
	}
	delete(p.known, relative)
	return nil
}
