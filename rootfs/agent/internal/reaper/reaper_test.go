package reaper

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, r *Reaper, script string) *Child {
	t.Helper()
	child, err := r.Start(func() (int, error) {
		return syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{})
	})
	if err != nil {
		t.Fatal(err)
	}
	return child
}

func TestEveryChildsStatusArrives(t *testing.T) {
	r := New(false)
	var all []*Child
	for range 30 {
		all = append(all, start(t, r, "exit 5"))
	}
	for _, child := range all {
		select {
		case <-child.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("a status was lost")
		}
		if child.ExitCode() != 5 {
			t.Errorf("exit code %d", child.ExitCode())
		}
	}
}

func TestASignalHasACodeAndIsSentOnce(t *testing.T) {
	child := start(t, New(false), "exec sleep 100")
	if err := child.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := child.ExitCode(); code != 128+15 {
		t.Errorf("exit code %d", code)
	}
	if err := child.Signal(unix.SIGTERM); err != unix.ESRCH {
		t.Errorf("signal to a process that has ended: %v", err)
	}
}
