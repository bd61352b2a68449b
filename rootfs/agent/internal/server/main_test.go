package server

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/log"
	"guestforge.dev/agent/internal/shim"
)

const separate = "GUESTFORGE_TEST_MOUNTS"

// The test program is the agent: it is started as a shim too. As root it runs in mount and pid namespaces of its own, so
// that nothing it mounts outlives it, and no signal that goes astray reaches a process of the host.
func TestMain(m *testing.M) {
	if shim.Wanted() {
		shim.Run()
	}
	if os.Getuid() == 0 && os.Getenv(separate) == "" {
		os.Exit(again())
	}
	if os.Getuid() == 0 {
		err := errors.Join(
			unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount("proc", "/proc", "proc", 0, ""),
		)
		if err != nil || os.Getpid() != 1 {
			fmt.Fprintln(os.Stderr, "namespaces for the tests:", err)
			os.Exit(1)
		}
	}
	if flag.Parse(); testing.Verbose() {
		log.SetOutput(os.Stderr)
	} else {
		log.SetOutput(io.Discard)
	}
	os.Exit(m.Run())
}

func again() int {
	runtime.LockOSThread() // the test must end with this program, and the kernel takes its thread for that
	test := exec.Command("/proc/self/exe", os.Args[1:]...)
	test.Env = append(os.Environ(), separate+"=1")
	test.Stdin, test.Stdout, test.Stderr = os.Stdin, os.Stdout, os.Stderr
	const apart = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	test.SysProcAttr = &syscall.SysProcAttr{Cloneflags: apart, Pdeathsig: unix.SIGKILL}
	if err := test.Run(); err != nil {
		return 1
	}
	return 0
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root: namespaces and mounts")
	}
}
