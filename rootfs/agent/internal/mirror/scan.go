// Package mirror keeps a copy of a small file or directory that somebody else changes: on a share nobody is told of a change,
// and the copy is on a file system that tells (inotify(7)).
package mirror

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/safepath"
)

// What is copied: Kata's limits, of which the first is here for files alone and not for links and directories too. A
// volume of Kubernetes has a link for each file.
const (
	maxFiles   = 16
	maxBytes   = 1 << 20
	maxEntries = 64
	maxDepth   = 8
)

// ErrTooMuch reports a source that is not to be copied.
var ErrTooMuch = errors.New("more to copy than 16 files and 1 MiB, or something else than files, directories and links")

// errMoving reports a source that is changed just now.
var errMoving = errors.New("the source is being changed")

// tries is how often a source is read again at once when it is not the same twice.
const tries = 5

// stamp is what changes with an entry of a file system.
type stamp struct {
	kind, mode, uid, gid uint32
	inode                uint64
	size                 int64
	modified, changed    unix.Timespec
}

type entry struct {
	stamp
	target string // of a link
	data   []byte // of a file; nil where it is what the copy has
}

// tree is the entries of a source by their paths; the source itself is "".
type tree map[string]entry

func (t tree) same(other tree) bool {
	return maps.EqualFunc(t, other, func(a, b entry) bool { return a.stamp == b.stamp })
}

// Source is a file or directory, by its path below a directory.
type Source struct{ Base, Path string }

// settled reads a source until it is the same twice, with a pause between: who reads while it is changed sees something of
// both states. What known has already is not read again.
func (s Source) settled(known tree, pause func()) (tree, error) {
	earlier, last := known, errMoving
	for try := range tries {
		if try > 0 {
			pause()
		}
		found, err := s.scan(earlier)
		switch {
		case errors.Is(err, ErrTooMuch):
			return nil, err
		case err != nil:
			last = err
		case found.same(earlier):
			return found, nil
		default:
			earlier, last = found, errMoving
		}
	}
	return nil, last
}

func (s Source) scan(known tree) (tree, error) {
	root, err := safepath.Open(s.Base, safepath.Strict)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	w := &walk{root: root, top: s.Path, known: known, found: tree{}}
	return w.found, w.visit("", 0)
}

// walk is one reading of a source.
type walk struct {
	root         *safepath.Root
	top          string
	known, found tree
	files, bytes int64
}

func (w *walk) visit(relative string, depth int) error {
	if len(w.found) >= maxEntries || depth > maxDepth {
		return ErrTooMuch
	}
	file, err := w.root.Open(path.Join(w.top, relative), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	var status unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &status); err != nil {
		return err
	}
	e := entry{stamp: stamp{
		status.Mode & unix.S_IFMT, status.Mode & 0o7777, status.Uid, status.Gid, status.Ino, status.Size, status.Mtim, status.Ctim,
	}}
	switch {
	case e.kind == unix.S_IFLNK && relative != "":
		e.target, err = readLink(file)
	case e.kind == unix.S_IFREG:
		err = w.readFile(file, relative, &e)
	case e.kind != unix.S_IFDIR:
		return ErrTooMuch
	}
	w.found[relative] = e
	if err != nil || e.kind != unix.S_IFDIR {
		return err
	}
	return w.list(file, relative, depth)
}

func (w *walk) list(directory *os.File, relative string, depth int) error {
	fd, err := unix.Openat(int(directory.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	listing := os.NewFile(uintptr(fd), directory.Name())
	defer listing.Close()
	names, err := listing.Readdirnames(maxEntries + 1)
	if err != nil && err != io.EOF {
		return err
	}
	for _, name := range names {
		if err := w.visit(path.Join(relative, name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// readFile reads what an O_PATH descriptor has open, unless that is known.
func (w *walk) readFile(file *os.File, relative string, e *entry) error {
	w.files++
	if w.bytes += e.size; w.files > maxFiles || e.size < 0 || w.bytes > maxBytes {
		return ErrTooMuch
	}
	if known, there := w.known[relative]; there && known.stamp == e.stamp {
		e.data = known.data
		return nil
	}
	opened, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		return err
	}
	defer opened.Close()
	e.data, err = io.ReadAll(io.LimitReader(opened, e.size+1))
	if err == nil && int64(len(e.data)) != e.size {
		err = errMoving
	}
	return err
}

func readLink(link *os.File) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", target)
	if err == nil && (n == 0 || n == len(target)) {
		err = fault.Invalid("a symbolic link of %d bytes: %s", n, link.Name())
	}
	return string(target[:max(n, 0)]), err
}
