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

// expect waits for the end of a child, which must have this exit code.
func expect(t *testing.T, child *Child, code int) {
	t.Helper()
	select {
	case <-child.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("no status has come")
	}
	if child.ExitCode() != code {
		t.Errorf("exit code %d", child.ExitCode())
	}
}

func TestEveryChildsStatusArrives(t *testing.T) {
	r := New(false)
	var all []*Child
	for range 30 {
		all = append(all, start(t, r, "exit 5"))
	}
	for _, child := range all {
		expect(t, child, 5)
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

// The kernel gives a number to another process once the one that had it was collected.
func TestASignalIsNotForWhoHasTheNumberNow(t *testing.T) {
	r := New(false)
	gone, bystander := start(t, r, "exit 3"), start(t, r, "exec sleep 100")
	expect(t, gone, 3)
	gone.Pid = bystander.Pid
	if err := gone.Signal(unix.SIGKILL); err != unix.ESRCH {
		t.Errorf("signal to a process that has ended: %v", err)
	}
	if err := bystander.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect(t, bystander, 128+15)
}

func TestAStartThatTakesLongHoldsNobodyUp(t *testing.T) {
	r := New(false)
	begun, over := make(chan struct{}), make(chan struct{})
	defer close(over)
	go r.Start(func() (int, error) {
		close(begun)
		<-over
		return 0, unix.EAGAIN
	})
	<-begun
	expect(t, start(t, r, "exit 6"), 6)
}

func TestTheStatusOfWhatEndsBeforeItIsKnown(t *testing.T) {
	r := New(false)
	for range 20 {
		child, err := r.Start(func() (int, error) {
			pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit 7"}, &syscall.ProcAttr{})
			time.Sleep(20 * time.Millisecond) // it has ended, and its signal has come
			return pid, err
		})
		if err != nil || child.ExitCode() != 7 {
			t.Fatalf("%v, exit code %d", err, child.ExitCode())
		}
	}
}

func TestAStartThatFailsEndsWhatItStarted(t *testing.T) {
	var pid int
	_, err := New(false).Start(func() (int, error) {
		pid, _ = syscall.ForkExec("/bin/sleep", []string{"sleep", "100"}, &syscall.ProcAttr{})
		return pid, unix.ETIMEDOUT
	})
	if err != unix.ETIMEDOUT {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); isChild(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it goes on")
		}
	}
}
