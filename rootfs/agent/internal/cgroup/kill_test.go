package cgroup

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// own makes a cgroup with a process and its child in it, and returns the first.
func own(t *testing.T) (*Cgroup, *exec.Cmd) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	top := t.TempDir()
	if err := unix.Mount("cgroup2", top, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(top, unix.MNT_DETACH) })
	path, err := os.MkdirTemp(top, "guestforge-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	if _, err := os.Stat(filepath.Join(path, "cgroup.kill")); err != nil {
		t.Skip("this kernel has no cgroup.kill")
	}
	directory, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { directory.Close() })
	first := exec.Command("sh", "-c", "sleep 1000 & sleep 1000")
	first.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(directory.Fd())}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	return &Cgroup{directory: directory}, first
}

func TestAllProcessesOfACgroupEnd(t *testing.T) {
	c, first := own(t)
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Wait(short); err != context.DeadlineExceeded {
		t.Errorf("nobody is there: %v", err)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Wait(limit); err != nil {
		t.Error(err)
	}
	c.directory.Close() // as Remove does
	if err := c.Kill(); err == nil {
		t.Error("a cgroup that was let go is killed")
	}
}
