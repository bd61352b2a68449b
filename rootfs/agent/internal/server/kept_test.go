package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
)

// What is kept of a process that has ended, and for how long.

func (a *agent) exec(id, exec string, args ...string) {
	a.Helper()
	process := &api.Process{Args: append([]string{"/probe"}, args...), Env: []string{"X=hello"}}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: id, ExecId: exec, Process: process})
}

// isThere tells whether the agent knows a process, which need not run.
func (a *agent) isThere(id, exec string) bool {
	a.Helper()
	err := a.call(AgentService, "CloseStdin", &api.CloseStdinRequest{ContainerId: id, ExecId: exec}, &emptypb.Empty{})
	if err != nil && status.Code(err) != codes.NotFound {
		a.Fatal(err)
	}
	return err == nil
}

// forgotten waits until a process is, and returns how long that has taken.
func (a *agent) forgotten(id, exec string) time.Duration {
	a.Helper()
	begun := time.Now()
	for a.isThere(id, exec) {
		if time.Since(begun) > 20*time.Second {
			a.Fatalf("process %s is still kept", exec)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begun)
}

func TestOutputThatNobodyReadsIsKeptForSomeTimeAfterTheStatus(t *testing.T) {
	a := startSandbox(t)
	a.launcher.Unread = 2 * time.Second
	a.run(a.create("host", "sleep", "100"))
	for _, id := range []string{"unread", "half", "read"} {
		a.exec("host", id, "echo-env", "X")
	}
	time.Sleep(a.launcher.Unread + time.Second) // it is the status that counts, not the end
	begun := time.Now()
	for _, id := range []string{"unread", "half", "read"} {
		a.expect(a.exitCode("host", id), int32(0), "exit code")
	}
	for _, id := range []string{"half", "read"} {
		a.expect(a.answer("host", id)["value"], "hello", "what it said")
	}
	a.output("ReadStderr", "host", "read")
	a.forgotten("host", "read")
	if took := time.Since(begun); took >= a.launcher.Unread {
		t.Errorf("what was read to its ends was kept for %v", took)
	}
	for _, id := range []string{"unread", "half"} {
		a.expect(a.isThere("host", id), true, "that output is kept")
	}
	for _, id := range []string{"unread", "half"} {
		a.forgotten("host", id)
		if took := time.Since(begun); took < a.launcher.Unread || took > a.launcher.Unread+5*time.Second {
			t.Errorf("output that nobody read was kept for %v", took)
		}
	}
}

// A runtime may never ask how a process has ended.
func TestAProcessOfWhichNobodyAsksIsForgottenInTheEnd(t *testing.T) {
	a := startSandbox(t)
	a.launcher.Unasked = 2 * time.Second
	a.run(a.create("host", "sleep", "100"))
	a.exec("host", "runs", "sleep", "100")
	a.exec("host", "ends", "echo-env", "X")
	time.Sleep(a.launcher.Unasked / 2)
	a.expect(a.answer("host", "ends")["value"], "hello", "what it said")
	a.output("ReadStderr", "host", "ends")
	if took := a.forgotten("host", "ends"); took > a.launcher.Unasked+5*time.Second {
		t.Errorf("it was kept for %v", took)
	}
	a.signal("host", "runs", 0)
	late := &api.WaitProcessRequest{ContainerId: "host", ExecId: "ends"}
	a.refused(codes.NotFound, "no process ends", "WaitProcess", late)
	a.exec("host", "ends", "exit", "4")
	a.expect(a.exitCode("host", "ends"), int32(4), "exit code of the next one of that name")
}

// A terminal has no end of file: when nobody has its other end open any more, it is an error to read it.
func TestATerminalsOutputWaitsForALateReader(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("host", "sleep", "100"))
	long := strings.Repeat("0123456789", 600) // more than is ready to be read (4,096 bytes), less than a terminal holds
	for id, value := range map[string]string{"short": "hello", "long": long} {
		process := &api.Process{Args: []string{"/probe", "echo-env", "X"}, Env: []string{"X=" + value}, Terminal: true}
		a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "host", ExecId: id, Process: process})
		request := a.create(id, "echo-env", "X")
		request.OCI.Process.Terminal, request.OCI.Process.Env = true, process.Env
		a.run(request)
		for _, of := range []struct{ container, exec string }{{"host", id}, {id, ""}} {
			a.expect(a.exitCode(of.container, of.exec), int32(0), "exit code")
			time.Sleep(time.Second)
			a.expect(a.answer(of.container, of.exec)["value"], value, fmt.Sprint("what ", of, " said"))
			for _, stream := range []string{"ReadStdout", "ReadStderr"} {
				a.expect(a.output(stream, of.container, of.exec), "", "what comes after that")
			}
			if of.exec != "" {
				a.forgotten(of.container, of.exec)
			}
		}
	}
}
