package server

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/shim"
)

func startSandbox(t *testing.T) *agent {
	t.Helper()
	needRoot(t)
	a := startAgent(t)
	a.do("CreateSandbox", &api.CreateSandboxRequest{Hostname: "sandbox", SandboxId: "s"})
	return a
}

func (a *agent) answer(id, exec string) map[string]any {
	a.Helper()
	text := a.output("ReadStdout", id, exec)
	said := map[string]any{}
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		a.Fatalf("answer %q (stderr %q): %v", text, a.output("ReadStderr", id, exec), err)
	}
	return said
}

func (a *agent) expect(got any, want any, what string) {
	a.Helper()
	if got != want {
		a.Errorf("%s is %v, not %v", what, got, want)
	}
}

func TestAContainerFromStartToFinish(t *testing.T) {
	a := startSandbox(t)
	request := a.create("one", "echo-env", "A")
	request.OCI.Process.User = &api.User{UID: 12, GID: 34}
	a.do("CreateContainer", request)
	a.do("StartContainer", &api.StartContainerRequest{ContainerId: "one"})
	said := a.answer("one", "")
	for key, want := range map[string]any{
		"value": "b", "uid": 12.0, "gid": 34.0, "cwd": "/data", "hostname": "box", "pid": 1.0,
	} {
		a.expect(said[key], want, key)
	}
	a.expect(a.exitCode("one", ""), int32(0), "exit code")
	a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: "one"})
	if _, err := os.Stat(filepath.Join(a.base, "one")); !os.IsNotExist(err) {
		t.Errorf("the bundle is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(a.base, "shared", "containers", "one", "probe")); err != nil {
		t.Errorf("what held the root has lost its files: %v", err)
	}
	if text, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(text), a.base) {
		t.Errorf("something is still mounted:\n%s", text)
	}
}

// Kata's runtimes name no pid namespace: the agent gives each container one, whatever the spec says.
func TestEveryContainerHasAPidNameSpaceOfItsOwn(t *testing.T) {
	a := startSandbox(t)
	for id, kinds := range map[string][]string{
		"none": {}, "runtimes": {"mount", "ipc", "uts"}, "named": {"pid", "mount", "ipc", "uts"},
	} {
		request := a.create(id, "echo-env", "A")
		request.OCI.Linux = &api.Linux{}
		for _, kind := range kinds {
			request.OCI.Linux.Namespaces = append(request.OCI.Linux.Namespaces, &api.LinuxNamespace{Type: kind})
		}
		a.run(request)
		a.expect(a.answer(id, "")["pid"], 1.0, "pid with "+id)
	}
}

func TestExitCodesAreThePrograms(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("code", "exit", "42"))
	a.expect(a.exitCode("code", "code"), int32(42), "exit code")
	a.run(a.create("killed", "sleep", "100"))
	a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "killed", Signal: 0}) // it is there
	a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "killed", Signal: 9})
	a.expect(a.exitCode("killed", ""), int32(128+9), "exit code of a killed process")
	a.refused(codes.NotFound, "ended", "SignalProcess", &api.SignalProcessRequest{ContainerId: "killed", Signal: 0})
	a.refused(codes.InvalidArgument, "signal 65", "SignalProcess", &api.SignalProcessRequest{ContainerId: "killed", Signal: 65})
}

func TestExecRunsBesideTheFirstProcess(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("two", "sleep", "100"))
	process := &api.Process{Args: []string{"probe", "echo-env", "X"}, Env: []string{"X=y", "PATH=/nowhere:/"}}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "two", ExecId: "e", Process: process})
	said := a.answer("two", "e")
	a.expect(said["value"], "y", "value")
	a.expect(said["hostname"], "box", "host name")
	a.expect(said["cwd"], "/", "working directory")
	a.expect(a.exitCode("two", "e"), int32(0), "exit code")
	if said["pid"] == 1.0 || said["pid"].(float64) > 1000 {
		t.Errorf("pid %v is not one of the container's namespace", said["pid"])
	}
	process.Args = []string{"/nothing"}
	a.refused(codes.NotFound, "/nothing", "ExecProcess", &api.ExecProcessRequest{ContainerId: "two", ExecId: "f", Process: process})
	a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: "two", Timeout: 5})
	a.refused(codes.NotFound, "two", "StartContainer", &api.StartContainerRequest{ContainerId: "two"})
}

func TestAnEndOfTheFirstProcessIsThatOfAll(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("three", "sleep", "100"))
	process := &api.Process{Args: []string{"/probe", "sleep", "100"}}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "three", ExecId: "e", Process: process})
	a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "three", ExecId: "e", Signal: 9})
	a.expect(a.exitCode("three", "e"), int32(128+9), "exit code")
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "three", ExecId: "e", Process: process})
	a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "three", Signal: 15})
	if a.exitCode("three", "e") == 0 || a.exitCode("three", "") == 0 {
		t.Error("a process ended well")
	}
}

func TestAContainerKeepsToItself(t *testing.T) {
	a := startSandbox(t)
	request := a.create("four", "mounts")
	request.OCI.Root.Readonly = true
	request.OCI.Linux = &api.Linux{MaskedPaths: []string{"/data", "/not/there"}, ReadonlyPaths: []string{"/proc/sys"}}
	request.OCI.Mounts = append(request.OCI.Mounts, &api.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	a.run(request)
	targets := map[string]string{}
	for _, mount := range a.answer("four", "")["mounts"].([]any) {
		m := mount.(map[string]any)
		targets[m["target"].(string)] = m["fstype"].(string) + " " + strings.Split(m["options"].(string), ",")[0]
	}
	root := targets["/"]
	delete(targets, "/")
	if !strings.HasSuffix(root, " ro") {
		t.Errorf("root is %s", root)
	}
	want := map[string]string{
		"/proc": "proc rw", "/dev": "tmpfs rw", "/tmp": "tmpfs rw", "/data": "tmpfs ro", "/proc/sys": "proc ro",
	}
	tops, err := filepath.Glob("/proc/[a-z]*")
	a.must(err)
	for _, top := range tops { // what is there to be written; the links to processes are not followed
		filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if info, err := entry.Info(); err == nil && info.Mode().IsRegular() && info.Mode()&0o222 != 0 {
				want[top] = "proc ro"
			}
			return nil
		})
	}
	a.expect(len(want) > 6, true, "that this kernel has more to be written than /proc/sys")
	for target, kind := range want {
		a.expect(targets[target], kind, target)
	}
	a.expect(len(targets), len(want), "the number of mounts")
	if entries, _ := os.ReadDir(filepath.Join(a.base, "shared", "containers", "four", "dev")); len(entries) != 0 {
		t.Errorf("devices were written into the storage: %v", entries)
	}
}

func TestStdinReachesTheProcess(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("five", "read", "/dev/stdin"))
	answer := &api.WriteStreamResponse{}
	a.must(a.call(AgentService, "WriteStdin", &api.WriteStreamRequest{ContainerId: "five", Data: []byte("12345")}, answer))
	a.expect(answer.Len, uint32(5), "bytes written")
	a.do("CloseStdin", &api.CloseStdinRequest{ContainerId: "five"})
	a.expect(a.answer("five", "")["size"], 5.0, "bytes read")
}

func TestNoBytesAreTheEndOfStdin(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("empty", "read", "/dev/stdin"))
	for _, data := range []string{"123", ""} {
		request := &api.WriteStreamRequest{ContainerId: "empty", Data: []byte(data)}
		a.must(a.call(AgentService, "WriteStdin", request, &api.WriteStreamResponse{}))
	}
	a.expect(a.answer("empty", "")["size"], 3.0, "bytes read")
}

// A signal is for the first process alone, by either of its names; the others are not told.
func TestASignalIsOfOneProcess(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("first", "sleep", "100"))
	process := &api.Process{Args: []string{"/probe", "sleep", "100"}}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "first", ExecId: "e", Process: process})
	for _, id := range []string{"", "first"} {
		a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "first", ExecId: id, Signal: uint32(unix.SIGURG)})
		a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "first", ExecId: id, Signal: uint32(unix.SIGWINCH)})
	}
	a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "first", ExecId: "e", Signal: 15})
	a.expect(a.exitCode("first", "e"), int32(128+15), "exit code of the other")
	a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "first", ExecId: "first", Signal: 9})
	a.expect(a.exitCode("first", ""), int32(128+9), "exit code of the first")
}

func TestAUserMayOpenItsStreamsAnew(t *testing.T) {
	a := startSandbox(t)
	request := a.create("streams", "read", "/dev/stdin")
	request.OCI.Process.User = &api.User{UID: 1000, GID: 1000}
	request.OCI.Process.Capabilities = &api.LinuxCapabilities{}
	a.run(request)
	a.do("CloseStdin", &api.CloseStdinRequest{ContainerId: "streams"})
	a.expect(a.answer("streams", "")["ok"], true, "the opening")
}

func TestAReadThatGaveUpTakesNothing(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("six", "read", "/dev/stdin"))
	short := make(chan error, 1)
	go func() { short <- a.shortRead("six") }()
	if err := <-short; err == nil {
		t.Fatal("a read without output came to an end")
	}
	// the agent's own clock for the call began when the request came, which may be a little after the caller's
	time.Sleep(time.Second)
	a.do("CloseStdin", &api.CloseStdinRequest{ContainerId: "six"})
	a.expect(a.answer("six", "")["size"], 0.0, "bytes read")
}

// A runtime may be late: its log's reader is slow, the host is busy. Output stays until the container is removed.
func TestOutputWaitsForALateReader(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("late", "sleep", "100"))
	process := &api.Process{Args: []string{"/probe", "echo-env", "X"}, Env: []string{"X=hello"}}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "late", ExecId: "e", Process: process})
	process.Args = []string{"/probe", "stat", "/nothing"}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "late", ExecId: "f", Process: process})
	a.expect(a.exitCode("late", "e"), int32(0), "exit code")
	time.Sleep(3 * time.Second)
	a.expect(a.answer("late", "e")["value"], "hello", "value")
	a.expect(a.answer("late", "f")["ok"], false, "what the failed one said")
	a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: "late", Signal: 9})
	a.exitCode("late", "")
	a.run(a.create("first", "exit", "3")) // a first process's, whose end ends the container
	a.expect(a.exitCode("first", ""), int32(3), "exit code")
	time.Sleep(time.Second)
	a.expect(a.answer("first", "")["exit"], 3.0, "what it said")
}

func TestWhatIsNotServedIsRefused(t *testing.T) {
	a := startSandbox(t)
	for words, change := range map[string]func(*api.CreateContainerRequest){
		"NOTIFY": func(r *api.CreateContainerRequest) {
			r.OCI.Linux = &api.Linux{Seccomp: &api.LinuxSeccomp{DefaultAction: "SCMP_ACT_NOTIFY"}}
		},
		"Hooks":    func(r *api.CreateContainerRequest) { r.OCI.Hooks = &api.Hooks{Prestart: []*api.Hook{{}}} },
		"Apparmor": func(r *api.CreateContainerRequest) { r.OCI.Process.ApparmorProfile = "strict" },
	} {
		request := a.create("seven", "exit", "0")
		change(request)
		a.refused(codes.Unimplemented, words, "CreateContainer", request)
	}
}

func TestMalformedContainersAreRefused(t *testing.T) {
	a := startSandbox(t)
	for words, change := range map[string]func(*api.CreateContainerRequest){
		"not an id":         func(r *api.CreateContainerRequest) { r.ContainerId = "../x" },
		"container id":      func(r *api.CreateContainerRequest) { r.ContainerId = "shared" },
		"root of the":       func(r *api.CreateContainerRequest) { r.OCI.Root.Path = "/etc" },
		"without a program": func(r *api.CreateContainerRequest) { r.OCI.Process.Args = nil },
		"a root and a":      func(r *api.CreateContainerRequest) { r.OCI.Root = nil },
		"no such limit":     func(r *api.CreateContainerRequest) { r.OCI.Process.Rlimits = []*api.POSIXRlimit{{Type: "X"}} },
		"no such capability": func(r *api.CreateContainerRequest) {
			r.OCI.Process.Capabilities = &api.LinuxCapabilities{Bounding: []string{"X"}}
		},
		"Seccomp.Syscalls[0].Action": func(r *api.CreateContainerRequest) {
			calls := []*api.LinuxSyscall{{Names: []string{"read"}, Action: "SCMP_ACT_X"}}
			r.OCI.Linux = &api.Linux{Seccomp: &api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Syscalls: calls}}
		},
		"not below": func(r *api.CreateContainerRequest) {
			r.OCI.Mounts = []*api.Mount{{Destination: "/x", Type: "bind", Source: "/etc/passwd"}}
		},
	} {
		request := a.create("eight", "exit", "0")
		change(request)
		a.refused(codes.InvalidArgument, words, "CreateContainer", request)
	}
	a.run(a.create("eight", "exit", "0"))
}

// A root that is a link to the guest's own files is refused by the kernel, whatever the checks of its words say.
func TestALinkIsNoRoot(t *testing.T) {
	a := startSandbox(t)
	request := a.create("nine", "exit", "0")
	link := filepath.Join(a.base, "shared", "containers", "link")
	a.must(os.Symlink("/", link))
	request.OCI.Root.Path = link
	a.refused(codes.Internal, "too many levels", "CreateContainer", request)
	request.OCI.Root.Path = link + "/etc"
	a.refused(codes.Internal, "too many levels", "CreateContainer", request)
}

// A link inside the root leads a mount to where it points inside the root, not in the guest.
func TestALinkInTheRootLeadsNowhereElse(t *testing.T) {
	a := startSandbox(t)
	request := a.create("ten", "mounts")
	a.must(os.Symlink("/", filepath.Join(request.OCI.Root.Path, "up")))
	request.OCI.Mounts = append(request.OCI.Mounts, &api.Mount{Destination: "/up/tmp", Type: "tmpfs", Source: "inside"})
	a.run(request)
	found := false
	for _, mount := range a.answer("ten", "")["mounts"].([]any) {
		m := mount.(map[string]any)
		found = found || m["target"] == "/tmp" && m["source"] == "inside"
	}
	if !found {
		t.Error("the mount is not on the container's /tmp")
	}
}

func TestPrivilegesAreTaken(t *testing.T) {
	a := startSandbox(t)
	request := a.create("eleven", "chmod", "/data", "0700")
	request.OCI.Process.User = &api.User{UID: 1000, GID: 1000}
	request.OCI.Process.Capabilities = &api.LinuxCapabilities{}
	a.run(request)
	a.expect(a.exitCode("eleven", ""), int32(1), "exit code without CAP_FOWNER")
	request = a.create("twelve", "chmod", "/data", "0700")
	request.OCI.Process.User = &api.User{UID: 1000, GID: 1000}
	owner := []string{"CAP_FOWNER"}
	request.OCI.Process.Capabilities = &api.LinuxCapabilities{
		Bounding: owner, Effective: owner, Permitted: owner, Inheritable: owner, Ambient: owner,
	}
	request.OCI.Process.NoNewPrivileges = true
	a.run(request)
	a.expect(a.exitCode("twelve", ""), int32(0), "exit code with CAP_FOWNER")
}

// A process that asks for no capabilities has none, the first one as one more, though it is root's.
func TestWhoAsksForNoCapabilitiesHasNone(t *testing.T) {
	a := startSandbox(t)
	owner := &api.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}}
	a.run(a.create("plain", "echo-env", "A"))
	a.expect(a.answer("plain", "")["capabilities"], "0 0 0 0 0", "what the first process has")
	request := a.create("owner", "sleep", "100")
	request.OCI.Process.Capabilities = owner
	a.run(request)
	for id, test := range map[string]struct {
		caps *api.LinuxCapabilities
		want string
	}{"none": {nil, "0 0 0 0 0"}, "empty": {&api.LinuxCapabilities{}, "0 0 0 0 0"}, "one": {owner, "0 1 1 1 0"}} {
		process := &api.Process{Args: []string{"/probe", "echo-env", "A"}, Capabilities: test.caps}
		a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "owner", ExecId: id, Process: process})
		a.expect(a.answer("owner", id)["capabilities"], test.want, "what process "+id+" has")
	}
}

// A container that stops all that it sees stops what enters it as well, wherever that is. It has no other container wait,
// and no call without a limit.
func TestAContainerThatStopsWhateverEntersItHoldsNobodyUp(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("good", "sleep", "100"))
	// on a busy machine, or under the race detector, 40 at once take longer than a second with nobody who stops them
	limit := max(time.Second, 2*a.atOnce("good", 40))
	a.launcher.Timeout = limit
	a.run(a.create("bad", "stop-others", "60"))
	var all sync.WaitGroup
	var late, failed atomic.Int32
	for i := range 40 {
		all.Go(func() {
			begun := time.Now()
			process := &api.Process{Args: []string{"/probe", "exit", "0"}}
			request := &api.ExecProcessRequest{ContainerId: "bad", ExecId: fmt.Sprint("e", i), Process: process}
			if a.call(AgentService, "ExecProcess", request, &emptypb.Empty{}) != nil {
				failed.Add(1)
			}
			if time.Since(begun) > 4*limit {
				late.Add(1)
			}
		})
	}
	for i := range 10 {
		begun, id := time.Now(), fmt.Sprint("g", i)
		process := &api.Process{Args: []string{"/probe", "exit", "7"}}
		a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "good", ExecId: id, Process: process})
		a.expect(a.exitCode("good", id), int32(7), "exit code")
		a.run(a.create(id, "exit", "5"))
		a.expect(a.exitCode(id, ""), int32(5), "exit code")
		a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: id})
		if took := time.Since(begun); took > 3*limit {
			t.Errorf("other containers waited for %v", took)
		}
	}
	all.Wait()
	a.expect(late.Load(), int32(0), "number of calls over their limit")
	if failed.Load() == 0 {
		t.Error("nothing was stopped: this test shows nothing")
	}
	a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: "bad", Timeout: 5})
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		text, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if strings.HasPrefix(string(text), shim.EnterName) || strings.HasPrefix(string(text), shim.ExecName) {
			t.Errorf("%s is still there: %q", entry.Name(), text)
		}
	}
}

// atOnce tells how long it takes to start so many processes at once in a container.
func (a *agent) atOnce(id string, many int) time.Duration {
	a.Helper()
	begun := time.Now()
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			process := &api.Process{Args: []string{"/probe", "exit", "0"}}
			request := &api.ExecProcessRequest{ContainerId: id, ExecId: fmt.Sprint("atonce", i), Process: process}
			if err := a.call(AgentService, "ExecProcess", request, &emptypb.Empty{}); err != nil {
				a.Error(err)
			}
		})
	}
	all.Wait()
	return time.Since(begun)
}

func TestMasksDoNotDependOnTheImage(t *testing.T) {
	a := startSandbox(t)
	for name, change := range map[string]func(*api.CreateContainerRequest, string){
		"without /dev": func(_ *api.CreateContainerRequest, root string) { a.must(os.Remove(filepath.Join(root, "dev"))) },
		"a null of its own": func(r *api.CreateContainerRequest, root string) {
			volume := filepath.Join(a.base, "shared", "containers", "dev")
			a.must(os.MkdirAll(volume, 0o755))
			a.must(os.Symlink("/proc/sys/kernel/domainname", filepath.Join(volume, "null")))
			r.OCI.Mounts = append(r.OCI.Mounts, &api.Mount{
				Destination: "/dev", Type: "bind", Source: volume, Options: []string{"bind"},
			})
		},
	} {
		id := strings.NewReplacer(" ", "-", "/", "").Replace(name)
		request := a.create(id, "read", "/data/masked")
		a.must(os.WriteFile(filepath.Join(request.OCI.Root.Path, "data", "masked"), []byte("not to be seen"), 0o644))
		change(request, request.OCI.Root.Path)
		request.OCI.Linux = &api.Linux{MaskedPaths: []string{"/data/masked", "/nowhere", "/data/masked/below"}}
		a.run(request)
		if text := a.output("ReadStdout", id, ""); strings.Contains(text, "not to be seen") || !strings.Contains(text, `"size":0`) {
			t.Errorf("%s: %s%s", name, text, a.output("ReadStderr", id, ""))
		}
	}
}

func TestAPathIsReadOnlyWithAllThatIsMountedBelow(t *testing.T) {
	a := startSandbox(t)
	request := a.create("below", "write", "/data/sub/file", "3", "seed")
	a.must(os.Mkdir(filepath.Join(request.OCI.Root.Path, "data", "sub"), 0o755))
	request.OCI.Mounts = append(request.OCI.Mounts, &api.Mount{Destination: "/data/sub", Type: "tmpfs", Source: "tmpfs"})
	request.OCI.Linux = &api.Linux{ReadonlyPaths: []string{"/data"}}
	a.run(request)
	if text := a.output("ReadStdout", "below", ""); !strings.Contains(text, "read-only file system") {
		t.Errorf("a mount below is not read-only: %s", text)
	}
}

func TestManyProcessesLeaveNothing(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("host", "sleep", "100"))
	count := func() int { entries, _ := os.ReadDir("/proc/self/fd"); return len(entries) }
	before := count()
	for i := range 30 {
		id := fmt.Sprint("e", i)
		process := &api.Process{Args: []string{"/probe", "exit", "3"}}
		a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "host", ExecId: id, Process: process})
		a.expect(a.exitCode("host", id), int32(3), "exit code")
		if text := a.output("ReadStdout", "host", id); text == "" { // the status does not take it away
			t.Fatal("the output is lost")
		}
		a.output("ReadStderr", "host", id)
	}
	for end := time.Now().Add(5 * time.Second); count() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors have become %d", before, count())
		}
	}
	a.refused(codes.NotFound, "no process e0", "SignalProcess", &api.SignalProcessRequest{ContainerId: "host", ExecId: "e0", Signal: 9})
}

func TestAProcessHasATerminal(t *testing.T) {
	a := startSandbox(t)
	request := a.create("typed", "terminal")
	request.OCI.Process.Terminal = true
	request.OCI.Process.ConsoleSize = &api.Box{Height: 24, Width: 80}
	request.OCI.Process.User = &api.User{UID: 12, GID: 34}
	a.run(request)
	process := &api.Process{Args: []string{"/probe", "terminal"}, Terminal: true}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "typed", ExecId: "e", Process: process})
	a.do("TtyWinResize", &api.TtyWinResizeRequest{ContainerId: "typed", ExecId: "e", Row: 50, Column: 132})
	for _, test := range []struct{ exec, columns, console string }{ // with the first process all others end
		{"e", `"columns":132`, `"console":false`}, {"", `"columns":80`, `"console":true`},
	} {
		a.do("WriteStdin", &api.WriteStreamRequest{ContainerId: "typed", ExecId: test.exec, Data: []byte("hello\n")})
		text := a.output("ReadStdout", "typed", test.exec) // the terminal's echo, and the answer
		for _, words := range []string{"hello\r\n", `"line":"hello\n"`, `"own":true`, test.columns, test.console} {
			if !strings.Contains(text, words) {
				t.Errorf("process %q: no %s in %q", test.exec, words, text)
			}
		}
		a.expect(a.output("ReadStderr", "typed", test.exec), "", "standard error")
		a.expect(a.exitCode("typed", test.exec), int32(0), "exit code")
	}
	a.do("CloseStdin", &api.CloseStdinRequest{ContainerId: "typed"})
	a.run(a.create("piped", "sleep", "100"))
	a.refused(codes.FailedPrecondition, "no terminal", "TtyWinResize", &api.TtyWinResizeRequest{ContainerId: "piped", Row: 1, Column: 1})
	a.refused(codes.InvalidArgument, "rows", "TtyWinResize", &api.TtyWinResizeRequest{ContainerId: "typed", Row: 1 << 16})
}

func TestKernelParametersAreTheSandboxs(t *testing.T) {
	a := startSandbox(t)
	request := a.create("tuned", "read", "/proc/sys/kernel/msgmax")
	request.OCI.Linux = &api.Linux{Sysctl: map[string]string{"kernel.msgmax": "4242"}}
	a.run(request)
	a.expect(a.answer("tuned", "")["sha256"], fmt.Sprintf("%x", sha256.Sum256([]byte("4242\n"))), "what it reads")
	if text, err := os.ReadFile("/proc/sys/kernel/msgmax"); err != nil || string(text) == "4242\n" {
		t.Errorf("the guest's is %q, %v", text, err)
	}
	a.run(a.create("beside", "read", "/proc/sys/kernel/msgmax")) // one of the same sandbox's
	a.expect(a.answer("beside", "")["sha256"], fmt.Sprintf("%x", sha256.Sum256([]byte("4242\n"))), "what another reads")
	request = a.create("greedy", "exit", "0")
	request.OCI.Linux = &api.Linux{Sysctl: map[string]string{"kernel.core_pattern": "x"}}
	a.refused(codes.Unimplemented, "core_pattern", "CreateContainer", request)
}
