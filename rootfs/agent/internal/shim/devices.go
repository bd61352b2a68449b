package shim

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/mount"
	"guestforge.dev/agent/internal/safepath"
)

// What every container finds in /dev (OCI runtime specification, config-linux.md, "Default Devices").
var defaultDevices = []*api.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: 0o666},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, FileMode: 0o666},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, FileMode: 0o666},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8, FileMode: 0o666},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9, FileMode: 0o666},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0, FileMode: 0o666},
}

var deviceLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	"ptmx": "pts/ptmx",
}

// The device types that a spec may ask for.
var deviceTypes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

// CheckDevices returns an error for a device that can't be made.
func CheckDevices(devices []*api.LinuxDevice) error {
	for _, d := range devices {
		if _, err := safepath.Below("/dev", d.Path); err != nil {
			return fmt.Errorf("device: %w", err)
		}
		if deviceTypes[d.Type] == 0 || d.Major < 0 || d.Major > 0xfff || d.Minor < 0 || d.Minor > 0xfffff {
			return fmt.Errorf("device %s: type %q, number %d:%d", d.Path, d.Type, d.Major, d.Minor)
		}
	}
	return nil
}

// prepareDev tells whether devices are to be made in /dev. A spec that mounts nothing there gets a tmpfs for it: nodes must
// not be written into what holds the root, which is the host's; nor into what is bind-mounted there. A root without /dev
// gets none.
func prepareDev(root *safepath.Root, spec *api.Spec) (bool, error) {
	for _, m := range spec.Mounts {
		if strings.TrimSuffix(m.Destination, "/") == "/dev" {
			options, err := mount.ParseOptions(m.Options)
			return m.Type != "bind" && !options.Bind, err
		}
	}
	target, err := root.Open("dev", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, nil
	}
	defer target.Close()
	options := mount.Options{Set: unix.MOUNT_ATTR_NOSUID, Data: []string{"mode=755", "size=64k"}}
	if err := mount.On(target, "tmpfs", "tmpfs", options); err != nil {
		return false, fmt.Errorf("mount on /dev in the container: %w", err)
	}
	return true, nil
}

// bindConsole has /dev/console be the process's terminal, as the OCI specification says. The terminal is one of the guest's:
// in the container's own /dev/pts it has no name.
func bindConsole(root *safepath.Root) error {
	name, err := os.Readlink("/proc/self/fd/0")
	if err != nil {
		return err
	}
	source, err := safepath.Path(name)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := root.File("/dev/console", 0o644)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := mount.Bind(source, target, mount.Options{}); err != nil {
		return fmt.Errorf("bind the terminal on /dev/console: %w", err)
	}
	return nil
}

func makeDevices(root *safepath.Root, spec *api.Spec) error {
	for _, d := range append(append([]*api.LinuxDevice(nil), defaultDevices...), spec.Linux.GetDevices()...) {
		if err := makeDevice(root, d); err != nil {
			return fmt.Errorf("make device %s: %w", d.Path, err)
		}
	}
	return linkDevices(root)
}

func makeDevice(root *safepath.Root, d *api.LinuxDevice) error {
	parent, err := root.Mkdir(path.Dir(d.Path), 0o755)
	if err != nil {
		return err
	}
	defer parent.Close()
	mode := deviceTypes[d.Type] | d.FileMode&0o7777
	number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	at, name := int(parent.Fd()), path.Base(d.Path)
	if err := unix.Mknodat(at, name, mode, int(number)); err == unix.EEXIST {
		return nil // the spec's own mount has brought it
	} else if err != nil {
		return err
	}
	if err := unix.Fchownat(at, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(at, name, d.FileMode&0o7777, 0) // the umask has taken bits away
}

func linkDevices(root *safepath.Root) error {
	directory, err := root.Mkdir("dev", 0o755)
	if err != nil {
		return err
	}
	defer directory.Close()
	for name, target := range deviceLinks {
		if err := unix.Symlinkat(target, int(directory.Fd()), name); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	return nil
}
