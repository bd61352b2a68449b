package copyfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mount"
)

const (
	maxRemoved = 1 << 16 // entries of a directory that makes room for a file
	maxDepth   = 64
	batch      = 256 // names that are read at once
)

// remove takes a directory away, which is open below parent and has a path. What is mounted there is a storage's, and stays.
func remove(parent int, name, path string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	if mounts := mount.Below(table, filepath.Clean(path)); len(mounts) > 0 {
		return fault.New(codes.FailedPrecondition, "%s is mounted there", mounts[0])
	}
	r := removal{left: maxRemoved}
	return r.tree(parent, name, 0)
}

// removal counts what may still be removed: somebody may make more meanwhile.
type removal struct{ left int }

func (r *removal) tree(parent int, name string, depth int) error {
	err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	if depth > maxDepth {
		return fault.New(codes.FailedPrecondition, "directories in more than %d others", maxDepth)
	}
	// not into what has been mounted since
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve}
	fd, err := unix.Openat2(parent, name, &how)
	if err != nil {
		return err
	}
	directory := os.NewFile(uintptr(fd), name)
	defer directory.Close()
	if err := r.contents(directory, depth); err != nil {
		return err
	}
	return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

// contents empties a directory. It is read from its beginning each time, for names have gone from it.
func (r *removal) contents(directory *os.File, depth int) error {
	for {
		names, err := directory.Readdirnames(batch)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := r.entry(int(directory.Fd()), name, depth); err != nil {
				return err
			}
		}
		if _, err := directory.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

func (r *removal) entry(directory int, name string, depth int) error {
	if r.left--; r.left < 0 {
		return fault.New(codes.FailedPrecondition, "more than %d files and directories", maxRemoved)
	}
	err := unix.Unlinkat(directory, name, 0)
	if err == unix.EISDIR {
		return r.tree(directory, name, depth+1)
	}
	if err == unix.ENOENT { // somebody was faster
		return nil
	}
	return err
}
