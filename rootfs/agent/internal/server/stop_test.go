package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/shim"
)

// stuck has processes enter a container that stops whatever does, until some of them don't come up. It returns what
// tells how many calls still wait, and what waits for the end of all.
func (a *agent) stuck(id string) (waiting func() int32, all *sync.WaitGroup) {
	a.Helper()
	a.run(a.create(id, "stop-others", "100"))
	all = &sync.WaitGroup{}
	var count atomic.Int32
	for i := range 20 {
		count.Add(1)
		all.Go(func() {
			defer count.Add(-1)
			process := &api.Process{Args: []string{"/probe", "exit", "0"}}
			request := &api.ExecProcessRequest{ContainerId: id, ExecId: fmt.Sprint("e", i), Process: process}
			a.call(AgentService, "ExecProcess", request, &emptypb.Empty{})
		})
	}
	for before := int32(0); count.Load() != before; { // those that come up do so in that time
		before = count.Load()
		time.Sleep(time.Second)
	}
	if count.Load() == 0 {
		a.Fatal("nothing was stopped: this test shows nothing")
	}
	return count.Load, all
}

// timed does something that must take less than a limit.
func (a *agent) timed(limit time.Duration, what string, do func()) {
	a.Helper()
	begun := time.Now()
	do()
	if took := time.Since(begun); took > limit {
		a.Errorf("%s took %v", what, took)
	}
}

// noShims fails for what still enters a container.
func (a *agent) noShims() {
	a.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	a.must(err)
	for _, path := range found {
		text, _ := os.ReadFile(path)
		if strings.HasPrefix(string(text), shim.EnterName) || strings.HasPrefix(string(text), shim.ExecName) {
			a.Errorf("%s is still there: %q", path, text)
		}
	}
}

// What enters a container may wait; calls for what is in it already do not.
func TestAContainerThatStopsWhateverEntersItIsServed(t *testing.T) {
	a := startSandbox(t)
	a.launcher.Timeout = 15 * time.Second
	waiting, all := a.stuck("bad")
	none := &api.ReadStreamRequest{ContainerId: "bad", ExecId: "none", Len: 1}
	for range 3 {
		a.timed(time.Second, "ReadStdout", func() { a.refused(codes.NotFound, "no process none", "ReadStdout", none) })
		a.timed(time.Second, "SignalProcess", func() { a.signal("bad", "", 0) })
		a.timed(time.Second, "WriteStdin", func() {
			a.do("WriteStdin", &api.WriteStreamRequest{ContainerId: "bad", Data: []byte("x")})
		})
	}
	a.timed(time.Second, "CloseStdin", func() { a.do("CloseStdin", &api.CloseStdinRequest{ContainerId: "bad"}) })
	if waiting() == 0 {
		t.Error("nothing waited meanwhile: this test shows nothing")
	}
	a.timed(5*time.Second, "RemoveContainer", func() {
		a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: "bad", Timeout: 5})
		all.Wait()
	})
	a.noShims()
}

func TestASandboxEndsWhoeverStopsWhatEntersIt(t *testing.T) {
	a := startSandbox(t)
	a.launcher.Timeout = 15 * time.Second
	a.run(a.create("good", "sleep", "100"))
	waiting, all := a.stuck("bad")
	if waiting() == 0 {
		t.Error("nothing waits: this test shows nothing")
	}
	a.timed(5*time.Second, "DestroySandbox", func() {
		a.do("DestroySandbox", &api.DestroySandboxRequest{})
		all.Wait()
	})
	a.noShims()
	for _, id := range []string{"good", "bad"} {
		if _, err := os.Stat(filepath.Join(a.base, id)); !os.IsNotExist(err) {
			t.Errorf("container %s is still there: %v", id, err)
		}
	}
}

// With the first process the kernel ends all others, and lets no more in: one that comes in that moment is started or
// refused, and nobody waits for what it can't have.
func TestProcessesThatMeetTheEndOfTheirContainer(t *testing.T) {
	a := startSandbox(t)
	const rounds, callers, limit = 12, 8, 5 * time.Second
	for round := range rounds {
		id := fmt.Sprint("ends", round)
		a.run(a.create(id, "sleep", "100"))
		var all sync.WaitGroup
		var mu sync.Mutex
		var started []string
		for i := range callers {
			all.Go(func() {
				for n := 0; ; n++ {
					exec := fmt.Sprint("e", i, "-", n)
					process := &api.Process{Args: []string{"/probe", "sleep", "100"}}
					request := &api.ExecProcessRequest{ContainerId: id, ExecId: exec, Process: process}
					begun := time.Now()
					err := a.call(AgentService, "ExecProcess", request, &emptypb.Empty{})
					if took := time.Since(begun); took > limit {
						t.Errorf("a start took %v: %v", took, err)
					}
					if err != nil {
						return
					}
					mu.Lock()
					started = append(started, exec)
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(round) * 10 * time.Millisecond)
		a.timed(limit, "the end", func() {
			a.signal(id, "", 9)
			a.expect(a.exitCode(id, ""), int32(128+9), "exit code")
			all.Wait()
			for _, exec := range started {
				a.expect(a.exitCode(id, exec), int32(128+9), "exit code of "+exec)
			}
			a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: id, Timeout: 5})
		})
	}
	a.noShims()
}
