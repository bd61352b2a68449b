package server

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// outside has the mount namespace that a confined test program was started from.
const outside = "GUESTFORGE_TEST_OUTSIDE"

// inside tells whether this program is confined: whether it is in another mount namespace than who started it.
func inside() (bool, error) {
	space, err := os.Readlink("/proc/self/ns/mnt")
	before := os.Getenv(outside)
	return before != "" && before != space, err
}

// What no test may do to the host: the agent's part is judged by the kernel's refusal.
var withheld = []uintptr{
	unix.CAP_SYS_TIME, unix.CAP_SYS_BOOT, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYSLOG, unix.CAP_MAC_ADMIN,
}

// again runs the tests in namespaces of their own, so that nothing they mount outlives them, no signal that goes astray
// reaches a process of the host, and no request of theirs its network, its name or its message queues.
func again() int {
	runtime.LockOSThread() // the test must end with this program, and the kernel takes its thread for that
	space, err := os.Readlink("/proc/self/ns/mnt")
	for _, each := range withheld { // of this thread, from which the tests are started
		err = errors.Join(err, unix.Prctl(unix.PR_CAPBSET_DROP, each, 0, 0, 0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "confine the tests:", err)
		return 1
	}
	test := exec.Command("/proc/self/exe", os.Args[1:]...)
	test.Env = append(os.Environ(), outside+"="+space)
	test.Stdin, test.Stdout, test.Stderr = os.Stdin, os.Stdout, os.Stderr
	const apart = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	test.SysProcAttr = &syscall.SysProcAttr{Cloneflags: apart, Pdeathsig: unix.SIGKILL}
	if err := test.Run(); err != nil {
		return 1
	}
	return 0
}

// confine has mounts stay in this mount namespace, and /proc be that of this pid namespace.
func confine() error {
	return errors.Join(
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount("proc", "/proc", "proc", 0, ""),
	)
}

const (
	hidden = "/dev/no-disks" // is there once hideHost has done its part
	ground = "/mnt"          // a file system for requests that nobody has thought of
)

// hideHost takes the host's devices away from this mount namespace, and has its kernel's files be read-only, but for those of
// the network namespace. It is for requests that nobody has thought of; tests that are run later have no disks either.
func hideHost() error {
	if _, err := os.Stat(hidden); err == nil {
		return nil
	}
	if err := withoutDisks(); err != nil {
		return err
	}
	if err := bindOver("/dev/null", "/proc/sysrq-trigger"); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return errors.Join(
		readOnly("/sys"), readOnly("/proc/sys"),
		unix.Mount("ground", ground, "tmpfs", 0, "size=256m"), bindOver("/proc/sys/net", "/proc/sys/net"),
		unix.Mount("", "/proc/sys/net", "", unix.MS_REMOUNT|unix.MS_BIND, ""),
	)
}

func bindOver(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	return nil
}

func readOnly(path string) error {
	return errors.Join(bindOver(path, path), unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
}

// withoutDisks puts a /dev in the place of the host's that has what a program may use, and neither a disk nor the
// kernel's log, console or source of entropy.
func withoutDisks() error {
	place, err := os.MkdirTemp("", "dev")
	if err != nil {
		return err
	}
	defer os.Remove(place)
	if err := unix.Mount("dev", place, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "urandom", "tty"} {
		if err := os.WriteFile(place+"/"+name, nil, 0o644); err != nil {
			return err
		}
		if err := bindOver("/dev/"+name, place+"/"+name); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Mkdir(place+"/pts", 0o755), unix.Mount("pts", place+"/pts", "devpts", unix.MS_NOSUID, "ptmxmode=0666"),
		os.Symlink("pts/ptmx", place+"/ptmx"), os.WriteFile(place+"/"+filepath.Base(hidden), nil, 0o444),
		unix.Mount(place, "/dev", "", unix.MS_MOVE, ""),
	)
}
