package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What follows is what a container must not be able to do. Each command tries, and tells how far it came.

// stopOthers stops again and again all processes that it may, for so many seconds.
func stopOthers(args []string) (answer, error) {
	seconds, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		unix.Kill(-1, unix.SIGSTOP)
	}
	return nil, nil
}

// newProcess are arguments of clone3(2), whose order no architecture has changed: a fork.
var newProcess = struct{ flags, pidfd, child, parent, exitSignal, stack, stackSize, tls uint64 }{
	exitSignal: uint64(unix.SIGCHLD),
}

// bomb makes processes for as long as it can, each of which does the same; it does not return.
func bomb([]string) (answer, error) {
	for {
		unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&newProcess)), unsafe.Sizeof(newProcess), 0)
	}
}

// devices makes a node for each device that the kernel has, and opens it for reading and writing.
func devices([]string) (answer, error) {
	const node = "/dev/probe-node"
	opened, refused := []string{}, []string{}
	for kind, mode := range map[string]uint32{"block": unix.S_IFBLK, "char": unix.S_IFCHR} {
		entries, err := os.ReadDir("/sys/dev/" + kind)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			name := kind + " " + entry.Name()
			refusal, err := openNode(node, mode, entry.Name())
			switch {
			case err != nil:
				return nil, fmt.Errorf("%s: %w", name, err)
			case refusal == nil:
				opened = append(opened, name)
			case refusal == unix.EPERM:
				refused = append(refused, name)
			}
		}
	}
	return answer{"opened": opened, "refused": refused}, nil
}

// openNode returns how a device of a number such as 254:0 was refused, nil where it was opened; and what kept it from making
// a node for that.
func openNode(path string, mode uint32, number string) (refusal, err error) {
	var major, minor uint32
	if _, err := fmt.Sscanf(number, "%d:%d", &major, &minor); err != nil {
		return nil, err
	}
	if err := unix.Mknod(path, mode|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return nil, err
	}
	defer unix.Unlink(path)
	return openDevice(path), nil
}

func openDevice(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// opens tells what comes of opening a path for reading and writing: the error's name, none where it was opened.
func opens(args []string) (answer, error) {
	return answer{"error": errorName(openDevice(args[0]))}, nil
}

// put writes a text to a file that is there, and tells the name of the error, none where it was taken.
func put(args []string) (answer, error) {
	fd, err := unix.Open(args[0], unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte(args[1]))
		unix.Close(fd)
	}
	return answer{"error": errorName(err)}, nil
}

func mknod(args []string) (answer, error) {
	major, err := strconv.ParseUint(args[2], 10, 32)
	if err != nil {
		return nil, err
	}
	minor, err := strconv.ParseUint(args[3], 10, 32)
	if err != nil {
		return nil, err
	}
	mode := map[string]uint32{"block": unix.S_IFBLK, "char": unix.S_IFCHR}[args[1]]
	if mode == 0 {
		return nil, fmt.Errorf("not a kind of device: %q", args[1])
	}
	return nil, unix.Mknod(args[0], mode|0o600, int(unix.Mkdev(uint32(major), uint32(minor))))
}

// writable opens all files below some directories for writing whose mode has somebody write to them: root may open others
// too, and the kernel takes nothing from it there. It tells which it could. Those of processes are left out, as is what
// leads to /dev/null.
func writable(args []string) (answer, error) {
	tried, opened := 0, []string{}
	for _, top := range args {
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil || entry.Type()&fs.ModeSymlink != 0:
				return nil // a link's target is below one of the directories, or nothing of theirs
			case entry.IsDir():
				return skipProcess(path)
			}
			info, err := entry.Info()
			if err != nil || info.Mode().Perm()&0o222 == 0 {
				return nil
			}
			tried++
			if opensForWriting(path) {
				opened = append(opened, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return answer{"tried": tried, "opened": opened}, nil
}

func skipProcess(path string) error {
	if name, found := strings.CutPrefix(path, "/proc/"); found && name[0] >= '0' && name[0] <= '9' {
		return fs.SkipDir
	}
	return nil
}

func opensForWriting(path string) bool {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var status unix.Stat_t
	null := unix.Fstat(fd, &status) == nil && status.Mode&unix.S_IFMT == unix.S_IFCHR && status.Rdev == unix.Mkdev(1, 3)
	return !null
}

// What only the guest may do.
var privileged = map[string]func() error{
	"mount":       func() error { return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "") },
	"umount":      func() error { return unix.Unmount("/proc", unix.MNT_DETACH) },
	"remount":     func() error { return unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
	"pivot_root":  func() error { return unix.PivotRoot("/", "/") },
	"unshare":     func() error { return unix.Unshare(unix.CLONE_NEWNS) },
	"reboot":      func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) },
	"sethostname": func() error { return unix.Sethostname([]byte("mine")) },
	"settime":     func() error { return unix.Settimeofday(&unix.Timeval{Sec: 1}) },
	"swapon":      func() error { return call(unix.SYS_SWAPON) },
	"swapoff":     func() error { return call(unix.SYS_SWAPOFF) },
	"bpf":         makeMap,
	"syslog":      func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_CLEAR, nil); return err },
	"module":      func() error { return call(unix.SYS_INIT_MODULE) },
	"setns":       func() error { return setnsTo("/proc/1/ns/mnt") },
}

func call(number uintptr) error {
	if _, _, err := unix.RawSyscall(number, 0, 0, 0); err != 0 {
		return err
	}
	return nil
}

// makeMap makes the simplest of maps (bpf(2), BPF_MAP_CREATE): what it says of one that is malformed tells nothing.
func makeMap() error {
	array := struct{ kind, keySize, valueSize, entries uint32 }{unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1}
	_, _, err := unix.RawSyscall(
		unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&array)), unsafe.Sizeof(array),
	)
	if err != 0 {
		return err
	}
	return nil
}

func setnsTo(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, 0)
}

// attempt does what only the guest may, and tells the name of each error, none where it was done.
func attempt([]string) (answer, error) {
	said := answer{}
	for name, do := range privileged {
		said[name] = errorName(do())
	}
	return answer{"calls": said}, nil
}

func errorName(err error) string {
	var number unix.Errno
	if err == nil {
		return ""
	}
	if errors.As(err, &number) {
		return unix.ErrnoName(number)
	}
	return err.Error()
}
