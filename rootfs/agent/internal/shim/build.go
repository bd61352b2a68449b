package shim

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
)

// build makes the container: its mounts, its devices, its root, its name. The namespaces are new already.
func build(spec *api.Spec) error {
	// Mounts of the container must not show in the guest. The other way round they may: a slave gets what is unmounted.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("separate the mounts: %w", err)
	}
	root, err := safepath.Open(spec.Root.Path, safepath.Inside)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := furnish(root, spec); err != nil {
		return err
	}
	if err := enter(spec.Root.Path); err != nil {
		return err
	}
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if err := protect(spec.Linux.GetMaskedPaths(), spec.Linux.GetReadonlyPaths()); err != nil {
		return err
	}
	if spec.Root.Readonly {
		return mount.ReadOnly("/")
	}
	return nil
}

func furnish(root *safepath.Root, spec *api.Spec) error {
	devices, err := prepareDev(root, spec)
	if err != nil {
		return err
	}
	for _, m := range spec.Mounts {
		if err := mountOne(root, m); err != nil {
			return err
		}
	}
	if !devices {
		return nil
	}
	return makeDevices(root, spec)
}

// File systems that a container may ask for besides bind mounts, and the kernel's name of each.
var containerTypes = map[string]string{
	"proc": "proc", "sysfs": "sysfs", "tmpfs": "tmpfs", "devpts": "devpts", "mqueue": "mqueue",
	"cgroup": "cgroup2", "cgroup2": "cgroup2",
}

// CheckMounts returns an error for a mount whose words alone make it impossible, or that takes from the guest what is not
// below base.
func CheckMounts(mounts []*api.Mount, base string) error {
	for _, m := range mounts {
		options, err := mount.ParseOptions(m.Options)
		if err == nil && (options.Bind || m.Type == "bind") {
			_, err = safepath.Below(base, m.Source)
		} else if err == nil && containerTypes[m.Type] == "" {
			err = fmt.Errorf("file system type %q", m.Type)
		}
		if err == nil && !strings.HasPrefix(m.Destination, "/") {
			err = fmt.Errorf("not an absolute path")
		}
		if err != nil {
			return fmt.Errorf("mount on %q: %w", m.Destination, err)
		}
	}
	return nil
}

func mountOne(root *safepath.Root, m *api.Mount) error {
	options, err := mount.ParseOptions(m.Options)
	if err != nil {
		return err
	}
	options.Bind = options.Bind || m.Type == "bind"
	target, err := mountPoint(root, m, options.Bind)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := mount.On(target, containerTypes[m.Type], m.Source, options); err != nil {
		return fmt.Errorf("mount on %s in the container: %w", m.Destination, err)
	}
	return nil
}

// mountPoint opens what to mount on, having made it where it is not there: a file for a file, else a directory.
func mountPoint(root *safepath.Root, m *api.Mount, bind bool) (*os.File, error) {
	if bind {
		info, err := os.Lstat(m.Source)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return fileIn(root, m.Destination)
		}
	}
	return root.Mkdir(m.Destination, 0o755)
}

func fileIn(root *safepath.Root, path string) (*os.File, error) {
	if file, err := root.Open(path, unix.O_PATH, 0); err == nil {
		return file, nil
	}
	slash := strings.LastIndexByte(path, '/')
	parent, err := root.Mkdir(path[:slash+1], 0o755)
	if err != nil {
		return nil, err
	}
	parent.Close()
	file, err := root.Open(path, unix.O_CREAT|unix.O_RDONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	file.Close()
	return root.Open(path, unix.O_PATH, 0)
}

// enter makes a mount the root directory. The old root is stacked on the new one by pivot_root(".", "."), which needs no
// directory for it, and is then let go.
func enter(path string) error {
	if err := unix.Chdir(path); err != nil {
		return &os.PathError{Op: "change into", Path: path, Err: err}
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	return unix.Chdir("/")
}

// protect hides paths from the container, or makes them read-only. Those that are not there need neither.
func protect(masked, readonly []string) error {
	for _, path := range masked {
		if err := mask(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	for _, path := range readonly {
		if err := remountReadOnly(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	return nil
}

func mask(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	target := os.NewFile(uintptr(fd), path)
	defer target.Close()
	info, err := target.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return mount.On(target, "tmpfs", "tmpfs", mount.Options{Set: unix.MOUNT_ATTR_RDONLY, Superblock: []string{"ro"}})
	}
	return mount.On(target, "", "/dev/null", mount.Options{Bind: true})
}

func remountReadOnly(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	target := os.NewFile(uintptr(fd), path)
	defer target.Close()
	options := mount.Options{Bind: true, Recursive: true, Set: unix.MOUNT_ATTR_RDONLY}
	return mount.On(target, "", path, options)
}
