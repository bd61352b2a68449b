// Package safepath opens and makes files below a directory, whatever the path says and whatever links lie on the way.
//
// Paths come from the host, and what they lead through (shared directories, roots of containers) is written by
// others. Resolution is the kernel's, by openat2(2), so that nobody can swap a component between check and use.
package safepath

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/fault"
)

const (
	maxPath = 4095 // PATH_MAX without its NUL

	// maxTries is how often a path is opened when something is renamed or mounted meanwhile: a container that renames
	// without end has the kernel give up each time that there is a ".." on the way.
	maxTries = 128

	// Strict refuses symbolic links, Inside takes them as chroot(2) would.
	Strict = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	Inside = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
)

// Root is an open directory that no path leads out of.
type Root struct {
	dir     *os.File
	resolve uint64
}

// Open returns the root of a directory; resolve is Strict or Inside. With Strict no symbolic link leads to it either.
func Open(directory string, resolve uint64) (*Root, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC}
	if resolve == Strict {
		how.Resolve = unix.RESOLVE_NO_SYMLINKS
	}
	fd, err := try(unix.AT_FDCWD, directory, &how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: directory, Err: err}
	}
	return &Root{os.NewFile(uintptr(fd), directory), resolve}, nil
}

// Make returns the root of a directory, a Strict one. The directory is made where it is missing, and no symbolic link leads
// to it.
func Make(directory string, mode uint32) (*Root, error) {
	top, err := Open("/", Strict)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	made, err := top.Mkdir(directory, mode)
	if err != nil {
		return nil, err
	}
	return At(made, Strict), nil
}

// OpenBelow opens what has a path below a directory, or the directory itself, through no symbolic link.
func OpenBelow(directory, relative string, flags int) (*os.File, error) {
	root, err := Open(directory, Strict)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(relative, flags, 0)
}

// At returns the root of a directory that is open, and that is the root's to close.
func At(directory *os.File, resolve uint64) *Root { return &Root{directory, resolve} }

// Path opens an absolute path of the guest with O_PATH. A symbolic link anywhere on it is an error.
func Path(name string) (*os.File, error) {
	root, err := Open("/", Strict)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(name, unix.O_PATH, 0)
}

// Close lets go of the directory.
func (r *Root) Close() error { return r.dir.Close() }

// Fd returns the directory's descriptor, an O_PATH one.
func (r *Root) Fd() int { return int(r.dir.Fd()) }

// Open opens a path relative to the root, with the flags and mode of open(2).
func (r *Root) Open(relative string, flags int, mode uint32) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: r.resolve}
	name := strings.TrimLeft(relative, "/")
	if name == "" {
		name = "."
	}
	fd, err := try(r.Fd(), name, &how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Join(r.dir.Name(), relative), Err: err}
	}
	return os.NewFile(uintptr(fd), path.Join(r.dir.Name(), relative)), nil
}

// try opens a path again where something on the way was changed meanwhile, but not for ever.
func try(directory int, name string, how *unix.OpenHow) (int, error) {
	fd, err := openat2(directory, name, how)
	for tries := 1; tries < maxTries && again(err); tries++ {
		fd, err = openat2(directory, name, how)
	}
	if again(err) {
		err = fmt.Errorf("something on the way was changed at each of %d tries: %w", maxTries, err)
	}
	return fd, err
}

// openat2 is the kernel's; a test has it fail.
var openat2 = unix.Openat2

// again tells whether openat2 did not look to the end: a rename or a mount in the meantime, or a signal.
func again(err error) bool { return err == unix.EAGAIN || err == unix.EINTR }

func (r *Root) openDir(relative string) (*os.File, error) {
	return r.Open(relative, unix.O_PATH|unix.O_DIRECTORY, 0)
}

func errorIs(err error, number unix.Errno) bool {
	wrapped, ok := err.(*fs.PathError)
	return ok && wrapped.Err == number
}

// Below returns what is left of an absolute path in normal form after its base. The base itself gives ".".
func Below(base, name string) (string, error) {
	trimmed := name
	if len(name) > 1 {
		trimmed = strings.TrimSuffix(name, "/") // Kata's runtimes write directories with one
	}
	switch {
	case len(name) > maxPath || strings.IndexByte(name, 0) >= 0:
		return "", fault.Invalid("a path of %d bytes, or one with a NUL byte", len(name))
	case !strings.HasPrefix(name, "/") || path.Clean(trimmed) != trimmed:
		return "", fault.Invalid("not an absolute path in normal form: %q", name)
	case trimmed == base:
		return ".", nil
	case !strings.HasPrefix(trimmed, base+"/"):
		return "", fault.Invalid("not below %s: %q", base, name)
	}
	return trimmed[len(base)+1:], nil
}
