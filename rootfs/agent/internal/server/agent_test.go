package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/container"
	"guestforge.dev/agent/internal/device"
	"guestforge.dev/agent/internal/guest"
	"guestforge.dev/agent/internal/reaper"
	"guestforge.dev/agent/internal/sandbox"
	"guestforge.dev/agent/internal/storage"
)

// agent is a server on a Unix socket and a client of it.
type agent struct {
	*testing.T
	base      string
	address   string // of the server's socket
	launcher  *container.Launcher
	box       *sandbox.Sandbox
	client    *ttrpc.Client
	destroyed chan struct{}
}

var children = sync.OnceValue(func() *reaper.Reaper { return reaper.New(false) })

var watchDevices = sync.OnceValues(device.NewWatch)

// newService makes what answers, with a sandbox below a directory, and next to no wait for what does not come. No
// request reaches the host's processors or memory.
func newService(directory string) (*Service, error) {
	base := filepath.Join(directory, "base")
	watch, err := watchDevices()
	if err != nil {
		return nil, err
	}
	storages := &storage.Manager{
		Base:     base,
		Devices:  &device.Finder{Sys: "/sys", Dev: "/dev", Watch: watch, Timeout: 50 * time.Millisecond},
		Interval: 20 * time.Millisecond,
	}
	launcher := &container.Launcher{
		Reaper: children(), Timeout: 10 * time.Second, Unread: container.Unread, Unasked: container.Unasked,
	}
	containers := &container.Manager{Base: base, Storage: storages, Launcher: launcher}
	box := &sandbox.Sandbox{Base: base, Storage: storages, Containers: containers}
	containers.Spaces = box.Spaces
	return &Service{
		Sandbox: box, Containers: containers, SharedDir: filepath.Join(base, "shared", "containers"),
		Hotplug: guest.Hotplug{Devices: directory},
	}, nil
}

func startAgent(t *testing.T) *agent {
	t.Helper()
	directory := t.TempDir()
	a := &agent{T: t, destroyed: make(chan struct{}, 8)}
	service, err := newService(directory)
	a.must(err)
	a.base, a.launcher, a.box = service.Sandbox.Base, service.Containers.Launcher, service.Sandbox
	service.Destroyed = func() { a.destroyed <- struct{}{} }
	server, err := service.New()
	a.must(err)
	// not below the test's directory: its name may be longer than a socket's may be
	listener, err := net.Listen("unix", fmt.Sprint("@guestforge-test-", os.Getpid(), filepath.Base(directory), t.Name()))
	a.must(err)
	go server.Serve(context.Background(), listener)
	a.address = listener.Addr().String()
	conn, err := net.Dial("unix", a.address)
	a.must(err)
	a.client = ttrpc.NewClient(conn)
	t.Cleanup(func() {
		a.client.Close()
		server.Close()
		a.box.Destroy()
	})
	return a
}

func (a *agent) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

func (a *agent) call(service, method string, request, answer proto.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return a.client.Call(ctx, service, method, request, answer)
}

// do is a call that must succeed.
func (a *agent) do(method string, request proto.Message) {
	a.Helper()
	if err := a.call(AgentService, method, request, &emptypb.Empty{}); err != nil {
		a.Fatalf("%s: %v", method, err)
	}
}

// refused is a call that must fail with a code, and words.
func (a *agent) refused(code codes.Code, words, method string, request proto.Message) {
	a.Helper()
	err := a.call(AgentService, method, request, &emptypb.Empty{})
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		a.Fatalf("%s: %v, not %v with %q", method, err, code, words)
	}
}

var buildProbe = sync.OnceValues(func() (string, error) {
	directory, err := os.MkdirTemp("", "probe")
	if err != nil {
		return "", err
	}
	path := filepath.Join(directory, "probe")
	build := exec.Command("go", "build", "-o", path, "guestforge.dev/agent/cmd/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	return path, build.Run()
})

// probeRoot makes the root directory of a container with the probe in it, and returns it.
func (a *agent) probeRoot(name string) string {
	a.Helper()
	path, err := buildProbe()
	a.must(err)
	program, err := os.ReadFile(path)
	a.must(err)
	root := filepath.Join(a.base, "shared", "containers", name)
	for _, directory := range []string{"proc", "dev", "tmp", "data"} {
		a.must(os.MkdirAll(filepath.Join(root, directory), 0o755))
	}
	a.must(os.WriteFile(filepath.Join(root, "probe"), program, 0o755))
	return root
}

// create makes a container that runs the probe.
func (a *agent) create(id string, args ...string) *api.CreateContainerRequest {
	a.Helper()
	return &api.CreateContainerRequest{ContainerId: id, ExecId: id, OCI: &api.Spec{
		Root:     &api.Root{Path: a.probeRoot(id)},
		Hostname: "box",
		Process:  &api.Process{Args: append([]string{"/probe"}, args...), Cwd: "/data", Env: []string{"A=b"}},
		Mounts:   []*api.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid"}}},
	}}
}

func (a *agent) run(request *api.CreateContainerRequest) {
	a.Helper()
	a.do("CreateContainer", request)
	a.do("StartContainer", &api.StartContainerRequest{ContainerId: request.ContainerId})
}

// output reads a stream to its end.
func (a *agent) output(method, id, exec string) string {
	a.Helper()
	var all strings.Builder
	for {
		answer := &api.ReadStreamResponse{}
		a.must(a.call(AgentService, method, &api.ReadStreamRequest{ContainerId: id, ExecId: exec, Len: 4096}, answer))
		if len(answer.Data) == 0 {
			return all.String()
		}
		all.Write(answer.Data)
	}
}

func (a *agent) exitCode(id, exec string) int32 {
	a.Helper()
	answer := &api.WaitProcessResponse{}
	a.must(a.call(AgentService, "WaitProcess", &api.WaitProcessRequest{ContainerId: id, ExecId: exec}, answer))
	return answer.Status
}

// shortRead reads with a deadline that comes first.
func (a *agent) shortRead(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	request := &api.ReadStreamRequest{ContainerId: id, Len: 10}
	return a.client.Call(ctx, AgentService, "ReadStdout", request, &api.ReadStreamResponse{})
}
