package shim

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
	"guestforge.dev/agent/internal/spaces"
)

// build makes the container: its mounts, its devices, its root, its name. The namespaces of mounts and processes are new
// already.
func build(spec *api.Spec) error {
	// before the mounts, for a file system of message queues is that of the namespace which mounts it
	if err := enterSandbox(spec.Hostname); err != nil {
		return err
	}
	// by now this process is in the container's cgroup, which is the root of what is seen from in here
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
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
	if err := setSysctls(spec.Linux.GetSysctl()); err != nil {
		return err
	}
	masks, err := openMasks(spec.Linux.GetMaskedPaths())
	if err != nil {
		return err
	}
	if err := enter(spec.Root.Path); err != nil {
		return err
	}
	if err := protect(masks, spec.Linux.GetReadonlyPaths()); err != nil {
		return err
	}
	if spec.Root.Readonly {
		return mount.ReadOnly("/")
	}
	return nil
}

// enterSandbox enters the namespaces that containers share. One with a name of its own has a UTS namespace of its own for
// that.
func enterSandbox(hostname string) error {
	sandbox := spaces.Shared{IPC: os.NewFile(ipcFD, "ipc"), UTS: os.NewFile(utsFD, "uts")}
	if err := sandbox.Join(); err != nil {
		return err
	}
	if hostname == "" {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make a UTS namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
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
	if err := makeDevices(root, spec); err != nil || !spec.Process.Terminal {
		return err
	}
	return bindConsole(root)
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
	if options.Bind || m.Type == "bind" {
		err = bindOne(root, m, options)
	} else {
		err = mountNew(root, m, options)
	}
	if err != nil {
		return fmt.Errorf("mount on %s in the container: %w", m.Destination, err)
	}
	return nil
}

func mountNew(root *safepath.Root, m *api.Mount, options mount.Options) error {
	target, err := root.Mkdir(m.Destination, 0o755)
	if err != nil {
		return err
	}
	defer target.Close()
	return mount.On(target, containerTypes[m.Type], m.Source, options)
}

// bindOne binds a path of the guest's, which others write to: what it leads to is opened once, through no link.
func bindOne(root *safepath.Root, m *api.Mount, options mount.Options) error {
	source, err := safepath.Path(m.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := mountPoint(root, m.Destination, source)
	if err != nil {
		return err
	}
	defer target.Close()
	return mount.Bind(source, target, options)
}

// mountPoint opens what to bind on, having made it where it is not there: a file for a file, else a directory.
func mountPoint(root *safepath.Root, path string, source *os.File) (*os.File, error) {
	info, err := source.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return root.Mkdir(path, 0o755)
	}
	return root.File(path, 0o644)
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
