package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
)

// nullMounts are paths of the container, and for each a mount of the guest's own /dev/null that is nowhere yet.
type nullMounts map[string]*os.File

// openMasks clones the guest's /dev/null, while the root is still the guest's: the container's may be missing, or be what
// an image wants it to be.
func openMasks(paths []string) (nullMounts, error) {
	null, err := safepath.Path("/dev/null")
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var status unix.Stat_t
	if err := unix.Fstat(int(null.Fd()), &status); err != nil {
		return nil, err
	}
	if status.Mode&unix.S_IFMT != unix.S_IFCHR || status.Rdev != unix.Mkdev(1, 3) {
		return nil, errors.New("the guest's /dev/null is another device")
	}
	opened := nullMounts{}
	for _, path := range paths {
		if opened[path], err = mount.Clone(null, mount.Options{}); err != nil {
			return nil, err
		}
	}
	return opened, nil
}

// protect hides paths from the container, or makes them read-only, with all that is mounted below. Those that are not
// there need neither.
func protect(masked nullMounts, readonly []string) error {
	for path, null := range masked {
		if err := mask(path, null); err != nil {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	if slices.Contains(readonly, "/proc/sys") { // a container that may write there is to have the guest
		more, err := settings(readonly)
		if err != nil {
			return err
		}
		readonly = append(readonly, more...)
	}
	for _, path := range readonly {
		if err := makeReadOnly(path); err != nil {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	return nil
}

// settings returns what is there to be written in /proc, besides processes and what is read-only already: files, and
// directories with such files in them. Lists of read-only paths are made for other machines, and know what those have; by
// /proc/powerpc/ofdt or /proc/cio_ignore of s390x devices are taken from a guest.
func settings(readonly []string) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, entry := range entries {
		path := "/proc/" + entry.Name()
		if entry.Name()[0] > '9' && !slices.Contains(readonly, path) && writable(path) {
			found = append(found, path)
		}
	}
	return found, nil
}

var errFound = errors.New("found")

// writable tells whether a path is, or has below it, a file that is there to be written.
func writable(path string) bool {
	return errFound == filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o222 != 0 {
			return errFound
		}
		return nil
	})
}

func mask(path string, null *os.File) error {
	target, err := open(path)
	if target == nil {
		return err
	}
	defer target.Close()
	info, err := target.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return mount.On(target, "tmpfs", "tmpfs", mount.Options{Set: unix.MOUNT_ATTR_RDONLY, Superblock: []string{"ro"}})
	}
	return mount.Place(null, target, mount.Options{})
}

func makeReadOnly(path string) error {
	target, err := open(path)
	if target == nil {
		return err
	}
	defer target.Close()
	options := mount.Options{Recursive: true, Set: unix.MOUNT_ATTR_RDONLY, SetBelow: true}
	return mount.Bind(target, target, options)
}

// open opens a path of the container's; nil without an error is that there is none.
func open(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
