// Package boot is the agent as PID 1: what it sets up before it serves, and how the guest ends.
package boot

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/cmdline"
)

// Init tells whether this process is the guest's first.
func Init() bool { return os.Getpid() == 1 }

type filesystem struct {
	target, fstype string
	flags          uintptr
	data           string
	optional       bool // without it the agent serves, though not all there is
}

var filesystems = []filesystem{
	{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", false},
	{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", false},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", true},
	{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", true},
	{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666", true},
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", false},
}

// Links that programs expect in /dev and that devtmpfs does not have; ptmx is one since the devpts is mounted.
var links = map[string]string{
	"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
	"/dev/stderr": "/proc/self/fd/2", "/dev/ptmx": "pts/ptmx",
}

// Mounts makes the guest's tree: all that must be there before the command line can be read.
func Mounts() error {
	if err := leaveRootfs(); err != nil {
		return err
	}
	for _, fs := range filesystems {
		if err := mountAt(fs); err != nil && !fs.optional {
			return err
		} else if err != nil {
			slog.Warn("not mounted", "error", err)
		}
	}
	openConsole()
	for link, target := range links {
		os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			slog.Warn("link not made", "error", err)
		}
	}
	return nil
}

func mountAt(fs filesystem) error {
	os.MkdirAll(fs.target, 0o755) // if it is missing and can't be made, the mount says so
	err := unix.Mount(fs.fstype, fs.target, fs.fstype, fs.flags, fs.data)
	if err == unix.EBUSY { // the kernel has mounted its devtmpfs (CONFIG_DEVTMPFS_MOUNT)
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "mount " + fs.fstype + " on", Path: fs.target, Err: err}
	}
	return nil
}

// leaveRootfs makes pivot_root(2) possible for containers of a guest that runs from its initramfs. The first mount of
// a system, which an initramfs is unpacked into, has no parent, and such a root can't be exchanged
// (https://docs.kernel.org/filesystems/ramfs-rootfs-initramfs.html). So it is bound once more, that mount is moved over
// the old root and becomes ours: the same files, nothing is copied, and containers are made in the same way as in a guest
// that runs from a disk.
func leaveRootfs() error {
	var root unix.Statfs_t
	if err := unix.Statfs("/", &root); err != nil {
		return err
	}
	if root.Type != unix.RAMFS_MAGIC && root.Type != unix.TMPFS_MAGIC {
		return nil
	}
	const passing = "/run" // any directory will do
	if err := os.MkdirAll(passing, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", passing, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the initramfs: %w", err)
	}
	if err := unix.Chdir(passing); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the initramfs: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return unix.Chdir("/")
}

// openConsole gives the agent a console where the kernel found none to open: an initramfs without /dev/console.
func openConsole() {
	var null, now unix.Stat_t
	if unix.Stat("/dev/null", &null) != nil || unix.Fstat(1, &now) == nil && now.Rdev != null.Rdev {
		return
	}
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	for standard := range 3 {
		unix.Dup3(fd, standard, 0)
	}
	unix.Close(fd)
}

// Of the files that a process may have open the kernel leaves 4096 to a PID 1 that asks for nothing, and to nobody more than
// fs.nr_open, 1 << 20. An init system raises both: what is unlimited on a host with systemd is 1,073,741,816, and a
// container's spec may ask for that.
const (
	openFiles = 1 << 20
	mostFiles = 1 << 30
)

// Settle does what depends on the command line, and what the guest can do without: failures are logged.
func Settle(config cmdline.Config) {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"cgroups", func() error { return mountCgroups(config) }},
		{"host name", setHostname},
		{"loopback", raiseLoopback},
		{"core dumps", func() error { return coreDumps(config.DevMode) }},
		{"working directory", func() error { return unix.Chdir("/") }},
		{"open files", raiseOpenFiles},
		{"list of processes", dumpNoTasks},
	} {
		if err := step.do(); err != nil {
			slog.Warn("not set up", "what", step.what, "error", err)
		}
	}
	unix.Setsid()
	os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

func raiseOpenFiles() error {
	if err := os.WriteFile("/proc/sys/fs/nr_open", []byte(strconv.Itoa(mostFiles)), 0); err != nil {
		return err
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: openFiles, Max: mostFiles})
}

// dumpNoTasks leaves out the list of processes when the kernel kills for memory: of some thousand it takes a slow
// console minutes.
func dumpNoTasks() error { return os.WriteFile("/proc/sys/vm/oom_dump_tasks", []byte("0"), 0) }

// mountCgroups mounts version 2, the only one that this agent knows. A kernel parameter that asks for the other is told.
func mountCgroups(config cmdline.Config) error {
	if !config.UnifiedCgroups && config.CgroupNoV1 != "all" {
		slog.Info("cgroups are version 2, though the command line does not ask for it: there is no other here")
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// a container that may write to its cgroup can't change its own limits: they are its parent's to set
	return mountAt(filesystem{"/sys/fs/cgroup", "cgroup2", flags, "nsdelegate", true})
}

func setHostname() error {
	name := "localhost"
	if text, err := os.ReadFile("/etc/hostname"); err == nil {
		if first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n"); first != "" {
			name = first
		}
	}
	return unix.Sethostname([]byte(name))
}

// coreDumps lets crashed processes leave a core in /run, in development.
func coreDumps(wanted bool) error {
	if !wanted {
		return nil
	}
	if err := os.WriteFile("/proc/sys/kernel/core_pattern", []byte("/run/core.%e.%p"), 0); err != nil {
		return err
	}
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	return unix.Setrlimit(unix.RLIMIT_CORE, &unlimited)
}
