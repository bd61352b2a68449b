package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/safepath"
)

// New returns a new mount of a file system that is not yet anywhere in the tree.
func New(fstype, source string, options Options) (*os.File, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("file system %s: %w", fstype, err)
	}
	context := os.NewFile(uintptr(fd), fstype)
	defer context.Close()
	if err := configure(context, source, options); err != nil {
		return nil, fmt.Errorf("mount %s as %s: %w%s", source, fstype, err, complaints(context))
	}
	mounted, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, int(options.Set))
	if err != nil {
		return nil, fmt.Errorf("mount %s as %s: %w%s", source, fstype, err, complaints(context))
	}
	return os.NewFile(uintptr(mounted), source), nil
}

func configure(context *os.File, source string, options Options) error {
	fd := int(context.Fd())
	if err := unix.FsconfigSetString(fd, "source", source); err != nil {
		return err
	}
	if err := set(fd, options); err != nil {
		return err
	}
	return unix.FsconfigCreate(fd)
}

// set says the options to the context of a file system.
func set(fd int, options Options) error {
	for _, option := range append(append([]string(nil), options.Superblock...), options.Data...) {
		var err error
		if key, value, assigned := strings.Cut(option, "="); assigned {
			err = unix.FsconfigSetString(fd, key, value)
		} else {
			err = unix.FsconfigSetFlag(fd, key)
		}
		if err != nil {
			return fmt.Errorf("option %q: %w", option, err)
		}
	}
	return nil
}

// complaints returns what the file system has to say of an error: the kernel gives one line "e text" a read.
func complaints(context *os.File) string {
	var said strings.Builder
	line := make([]byte, 1024)
	for range 8 {
		n, err := unix.Read(int(context.Fd()), line)
		if err != nil || n <= 0 {
			break
		}
		if text, ok := bytes.CutPrefix(bytes.TrimSpace(line[:n]), []byte("e ")); ok {
			said.WriteString(": ")
			said.Write(text)
		}
	}
	return said.String()
}

// Clone returns a copy of the mount at an open file or directory (a bind mount) that is not yet anywhere in the tree.
func Clone(source *os.File, options Options) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if options.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(source.Fd()), "", flags)
	if err != nil {
		return nil, fmt.Errorf("bind mount of %s: %w", source.Name(), err)
	}
	cloned := os.NewFile(uintptr(fd), source.Name())
	attr := unix.MountAttr{Attr_set: options.Set, Attr_clr: options.clear}
	if err := setattr(cloned, attr, options.SetBelow); err != nil {
		return nil, errors.Join(err, cloned.Close())
	}
	return cloned, nil
}

// Place puts a mount that is nowhere on a file or directory, and then gives it its propagation.
func Place(mounted, target *os.File, options Options) error {
	const emptyPaths = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(int(mounted.Fd()), "", int(target.Fd()), "", emptyPaths); err != nil {
		return fmt.Errorf("mount on %s: %w", target.Name(), err)
	}
	return setattr(mounted, unix.MountAttr{Propagation: options.Propagation}, options.deep)
}

// On mounts a file system on an open directory.
func On(target *os.File, fstype, source string, options Options) error {
	mounted, err := New(fstype, source, options)
	if err != nil {
		return err
	}
	defer mounted.Close()
	return Place(mounted, target, options)
}

// Bind binds an open file or directory on another one. The source is open, and no path: whoever can write on a path's way
// could have it lead elsewhere by now.
func Bind(source, target *os.File, options Options) error {
	cloned, err := Clone(source, options)
	if err != nil {
		return err
	}
	defer cloned.Close()
	return Place(cloned, target, options)
}

// ReadOnly makes the mount at a path read-only: that mount, not its file system.
func ReadOnly(path string) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, &attr); err != nil {
		return &os.PathError{Op: "make read-only", Path: path, Err: err}
	}
	return nil
}

func setattr(mounted *os.File, attr unix.MountAttr, deep bool) error {
	if attr == (unix.MountAttr{}) {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if deep {
		flags |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(int(mounted.Fd()), "", flags, &attr); err != nil {
		return fmt.Errorf("attributes of the mount of %s: %w", mounted.Name(), err)
	}
	return nil
}

// Detach takes a mount, of which the descriptor is open, out of the tree and closes the descriptor. No path is resolved for it.
func Detach(mounted *os.File) error {
	defer mounted.Close()
	if err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", mounted.Fd()), unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "unmount", Path: mounted.Name(), Err: err}
	}
	return nil
}

// Unmount unmounts what is on a path. A mount that is in use leaves the tree at once and ends with its last user.
func Unmount(path string) error { return unmount(path, path) }

// UnmountBelow is Unmount of a path below a directory, on the way to which no symbolic link is followed: whoever can write
// there could have put one by now.
func UnmountBelow(base, path string) error {
	relative, err := safepath.Below(base, path)
	if err != nil {
		return err
	}
	parent, err := safepath.OpenBelow(base, filepath.Dir(relative), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	defer parent.Close()
	return unmount(fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), filepath.Base(relative)), path)
}

func unmount(path, name string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		return &os.PathError{Op: "unmount", Path: name, Err: err}
	}
	return nil
}
