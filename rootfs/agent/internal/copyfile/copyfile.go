// Package copyfile writes the files that a runtime sends in pieces.
package copyfile

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/safepath"
)

const (
	maxSize  = 1 << 40
	maxName  = 255 - len(partial)
	partial  = ".tmp"
	modeBits = 0o7777
)

// Write does one request: a directory, a symbolic link, or a piece of a file, which lies beside its place under another
// name until its last piece has come. Paths are those below base, and no symbolic link is followed. What is there already
// goes, but for a directory where a directory is to be.
func Write(base string, r *api.CopyFileRequest) error {
	relative, err := safepath.Below(base, r.Path)
	if err != nil {
		return err
	}
	directory, name := path.Split(relative)
	if name == "." || len(name) > maxName {
		return fault.Invalid("not a file's path: %q", r.Path)
	}
	root, err := safepath.Make(base, 0o755)
	if err != nil {
		return err
	}
	defer root.Close()
	// directories on the way that are not there become the file's owner's, as with Kata's agent
	parent, err := root.MkdirOwned(directory, dirMode(r), safepath.Owner{UID: int(r.Uid), GID: int(r.Gid)})
	if err != nil {
		return err
	}
	defer parent.Close()
	return put(int(parent.Fd()), name, r)
}

func dirMode(r *api.CopyFileRequest) uint32 {
	if mode := r.DirMode & modeBits; mode != 0 {
		return mode
	}
	return 0o750
}

func put(parent int, name string, r *api.CopyFileRequest) error {
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFDIR:
		return putDirectory(parent, name, r)
	case unix.S_IFLNK:
		return putLink(parent, name, r)
	case unix.S_IFREG, 0:
		return putPiece(parent, name, r)
	}
	return fault.Invalid("neither file, directory nor symbolic link: mode %#o", r.FileMode)
}

func putDirectory(parent int, name string, r *api.CopyFileRequest) error {
	if err := unix.Unlinkat(parent, name, 0); err != nil && err != unix.ENOENT && err != unix.EISDIR {
		return fmt.Errorf("remove what is in the place of directory %s: %w", r.Path, err)
	}
	if err := unix.Mkdirat(parent, name, r.FileMode&modeBits); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make directory %s: %w", r.Path, err)
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", r.Path, err)
	}
	defer unix.Close(fd)
	return own(fd, r)
}

func putLink(parent int, name string, r *api.CopyFileRequest) error {
	temporary := name + partial
	if err := unix.Unlinkat(parent, temporary, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("%s: %w", r.Path, err)
	}
	if err := unix.Symlinkat(string(r.Data), parent, temporary); err != nil {
		return fmt.Errorf("make symbolic link %s: %w", r.Path, err)
	}
	if err := unix.Fchownat(parent, temporary, int(r.Uid), int(r.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner of %s: %w", r.Path, err)
	}
	return rename(parent, temporary, name, r)
}

func putPiece(parent int, name string, r *api.CopyFileRequest) error {
	size := int64(len(r.Data))
	if r.FileSize < 0 || r.FileSize > maxSize || r.Offset < 0 || r.Offset > r.FileSize-size {
		return fault.Invalid("%d bytes at %d are no piece of a file of %d", size, r.Offset, r.FileSize)
	}
	temporary := name + partial
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	if r.Offset == 0 {
		flags |= unix.O_TRUNC
	}
	fd, err := unix.Openat(parent, temporary, flags, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", r.Path+partial, err)
	}
	file := os.NewFile(uintptr(fd), r.Path+partial)
	whole, err := writePiece(file, r)
	if err = errors.Join(err, file.Close()); err != nil || !whole {
		return err
	}
	return rename(parent, temporary, name, r)
}

// writePiece tells whether the file has all its pieces now; owner and mode come with the last one.
func writePiece(file *os.File, r *api.CopyFileRequest) (bool, error) {
	if _, err := file.WriteAt(r.Data, r.Offset); err != nil {
		return false, err
	}
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, fault.Invalid("%s is not a file", file.Name())
	}
	if info.Size() != r.FileSize {
		return false, nil
	}
	return true, own(int(file.Fd()), r)
}

// own changes the owner first: that takes set-user-ID bits away.
func own(fd int, r *api.CopyFileRequest) error {
	if err := unix.Fchown(fd, int(r.Uid), int(r.Gid)); err != nil {
		return fmt.Errorf("owner of %s: %w", r.Path, err)
	}
	if err := unix.Fchmod(fd, r.FileMode&modeBits); err != nil {
		return fmt.Errorf("mode of %s: %w", r.Path, err)
	}
	return nil
}

// rename gives what has come its place. A directory there goes with all that is in it, as with Kata's agent.
func rename(parent int, from, to string, r *api.CopyFileRequest) error {
	err := unix.Renameat(parent, from, parent, to)
	if err == unix.EISDIR {
		if err = remove(parent, to, r.Path); err == nil {
			err = unix.Renameat(parent, from, parent, to)
		}
	}
	if err != nil {
		_ = unix.Unlinkat(parent, from, 0) // a link would be in the way of the next attempt
		return fmt.Errorf("rename to %s: %w", r.Path, err)
	}
	return nil
}
