package server

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"guestforge.dev/agent/internal/api"
)

const (
	fewRounds = 20 // unless GUESTFORGE_ROUNDS says how many; resident memory is looked at then alone
	settling  = 20 // seconds for what ends after its call
	heapMore  = 128 << 10
	rssMore   = 4 << 20 // what Go's runtime and the kernel may hold more of than is in use
)

func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("GUESTFORGE_ROUNDS")
	if text == "" {
		return fewRounds
	}
	wanted, err := strconv.Atoi(text)
	if err != nil || wanted < 1 {
		t.Fatalf("GUESTFORGE_ROUNDS is %q", text)
	}
	return wanted
}

// held counts what a call may leave behind, but for memory. This process is server and client, and all others of its pid
// namespace are containers'.
func (a *agent) held() map[string]int {
	a.Helper()
	counts := map[string]int{"goroutines": runtime.NumGoroutine()}
	for name, pattern := range map[string]string{
		"files": "/proc/self/fd/*", "processes": "/proc/[0-9]*", "directories": a.base + "/*",
	} {
		found, err := filepath.Glob(pattern)
		a.must(err)
		counts[name] = len(found)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	a.must(err)
	counts["mounts"] = strings.Count(string(mounts), "\n")
	return counts
}

// memory returns how many bytes are in use on the heap, and how many are resident, when all has been let go that may be.
func (a *agent) memory() (heap, resident int) {
	a.Helper()
	debug.FreeOSMemory()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	text, err := os.ReadFile("/proc/self/statm")
	a.must(err)
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	a.must(err)
	return int(stats.HeapAlloc), pages * os.Getpagesize()
}

// leavesNothing does something many times, and some times before that for what is made once.
func (a *agent) leavesNothing(once func(round int)) {
	a.Helper()
	count := rounds(a.T)
	for i := range max(count/10, 5) {
		once(-1 - i)
	}
	before := a.settled(nil)
	heap, resident := a.memory()
	begun := time.Now()
	for i := range count {
		once(i)
	}
	took := time.Since(begun)
	if after := a.settled(before); more(after, before) {
		a.Errorf("%v have become %v in %d rounds", before, after, count)
	}
	heapNow, residentNow := a.memory()
	if heapNow-heap > heapMore || count > fewRounds && residentNow-resident > rssMore {
		a.Errorf("%d bytes on the heap and %d resident have become %d and %d", heap, resident, heapNow, residentNow)
	}
	a.Logf("%d rounds in %v, %d KiB more on the heap and %d KiB resident: %v",
		count, took.Round(time.Millisecond), (heapNow-heap)>>10, (residentNow-resident)>>10, before)
}

// more tells whether there is more of anything. Less is what tests before this one had left to end by itself.
func more(after, before map[string]int) bool {
	for name, count := range after {
		if count > before[name] {
			return true
		}
	}
	return false
}

// settled counts until it is no more than wanted, or the same for a while where nothing is wanted.
func (a *agent) settled(wanted map[string]int) map[string]int {
	a.Helper()
	counts := a.held()
	for range settling * 20 {
		time.Sleep(50 * time.Millisecond)
		before := counts
		counts = a.held()
		if wanted != nil && !more(counts, wanted) || wanted == nil && maps.Equal(counts, before) {
			break
		}
	}
	return counts
}

func TestRoundsOfContainersLeaveNothing(t *testing.T) {
	a := startSandbox(t)
	request := a.create("again", "exit", "3")
	a.leavesNothing(func(round int) {
		a.run(request)
		if round%2 == 0 { // the others are removed while they run, or have just ended
			a.expect(a.exitCode("again", ""), int32(3), "exit code")
		}
		a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: "again"})
	})
}

func TestRoundsOfProcessesLeaveNothing(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("host", "sleep", "100000"))
	process := &api.Process{Args: []string{"/probe", "exit", "3"}}
	a.leavesNothing(func(round int) {
		id := fmt.Sprint("e", round&1)
		a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "host", ExecId: id, Process: process})
		a.expect(a.exitCode("host", id), int32(3), "exit code")
		a.output("ReadStdout", "host", id)
		a.output("ReadStderr", "host", id)
	})
}

// A runtime may never ask how a process has ended, nor what it said.
func TestRoundsOfProcessesThatNobodyAsksForLeaveNothing(t *testing.T) {
	a := startSandbox(t)
	a.launcher.Unasked, a.launcher.Unread = 50*time.Millisecond, 50*time.Millisecond
	a.run(a.create("host", "sleep", "100000"))
	a.leavesNothing(func(round int) {
		id := fmt.Sprint("e", round)
		a.exec("host", id, "exit", "3")
		if round%2 == 0 { // of the others nobody asks at all
			a.expect(a.exitCode("host", id), int32(3), "exit code")
		}
	})
}

// A copy that was begun and left is one file, until it is begun anew; the next sandbox has none.
func TestRoundsOfCopiesBegunAndLeftLeaveNothing(t *testing.T) {
	a := startSandbox(t)
	directory := filepath.Join(a.base, "shared", "containers")
	request := &api.CopyFileRequest{
		Path: filepath.Join(directory, "file"), FileSize: 100, FileMode: 0o600, Data: []byte("begun"),
	}
	a.leavesNothing(func(int) { a.do("CopyFile", request) })
	left := func() int {
		entries, err := os.ReadDir(directory)
		if !os.IsNotExist(err) {
			a.must(err)
		}
		return len(entries)
	}
	a.expect(left(), 1, "number of files")
	a.do("DestroySandbox", &api.DestroySandboxRequest{})
	a.do("CreateSandbox", &api.CreateSandboxRequest{})
	a.expect(left(), 0, "number of files of the next sandbox")
}

func TestRoundsOfConnectionsLeaveNothing(t *testing.T) {
	a := startAgent(t)
	a.leavesNothing(func(round int) {
		conn, err := net.Dial("unix", a.address)
		a.must(err)
		client := ttrpc.NewClient(conn)
		if round%3 != 0 { // one in three says nothing at all
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			a.must(client.Call(ctx, HealthService, "Check", &api.CheckRequest{}, &api.HealthCheckResponse{}))
			cancel()
		}
		a.must(client.Close())
	})
}
