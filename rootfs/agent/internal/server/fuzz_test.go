package server

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fields/fieldtest"
	"guestforge.dev/agent/internal/sandbox"
)

const (
	patience = 200 * time.Millisecond // how long a caller waits for what may wait
	hang     = 40 * time.Second       // and how long it may take to tell so: a container's end and a sync of a busy host lie in it
	tenant   = "c"                    // the container that requests find
)

// FuzzRequests hands any bytes as the request of any method to the service. Each answer is a message or a status, in
// time; nothing panics.
func FuzzRequests(f *testing.F) {
	needRoot(f)
	if err := hideHost(); err != nil {
		f.Fatal(err)
	}
	for i := range agentMethods().Len() {
		name := string(agentMethods().Get(i).Name())
		f.Add(name, []byte{})
		f.Add(name, encode(f, filled(agentMethods().Get(i).Input(), 0).Interface()))
	}
	for _, seed := range containerSeeds() {
		f.Add("CreateContainer", encode(f, seed))
	}
	process := &api.Process{Args: []string{"/probe", "exit", "3"}, Cwd: "/data", Env: []string{"A=b"}, User: &api.User{UID: 7}}
	f.Add("ExecProcess", encode(f, &api.ExecProcessRequest{ContainerId: tenant, ExecId: "exec", Process: process}))
	var g guestUnderFuzz
	f.Fuzz(func(t *testing.T, name string, request []byte) {
		methods := g.methods(t)
		if methods[name] == nil {
			name = anyOf(slices.Sorted(maps.Keys(methods)), name)
		}
		g.call(t, name, methods[name], request)
	})
}

func anyOf(names []string, key string) string {
	sum := fnv.New32a()
	sum.Write([]byte(key))
	return names[int(sum.Sum32())%len(names)]
}

func encode(f *testing.F, message protoreflect.ProtoMessage) []byte {
	text, err := proto.Marshal(message)
	if err != nil {
		f.Fatal(err)
	}
	return text
}

// filled has a value in every field of a message, one that leads as far into the agent as may be.
func filled(kind protoreflect.MessageDescriptor, depth int) protoreflect.Message {
	message := dynamicpb.NewMessage(kind)
	for i := range kind.Fields().Len() {
		field := kind.Fields().Get(i)
		switch {
		case unset[field.Name()] || depth > 5:
		case field.IsMap():
			value := message.NewField(field)
			if field.MapValue().Kind() == protoreflect.StringKind {
				value.Map().Set(protoreflect.ValueOfString("net.core.somaxconn").MapKey(), protoreflect.ValueOfString("100"))
			}
			message.Set(field, value)
		case field.IsList():
			value := message.NewField(field)
			value.List().Append(plausible(field, depth))
			message.Set(field, value)
		default:
			message.Set(field, plausible(field, depth))
		}
	}
	return message
}

// Values of fields by their names; others get "1" or 1.
var words = map[protoreflect.Name]string{
	"container_id": tenant, "exec_id": tenant, "mount_point": sandbox.Base + "/sandbox/volume", "driver": "ephemeral",
	"fstype": "tmpfs", "path": sandbox.Base + "/shared/containers/file", "volume_guest_path": sandbox.Base,
	"hwAddr": "02:00:00:00:00:01", "lladdr": "02:00:00:00:00:01", "device": "lo", "devicePath": "", "source": "", "dest": "10.0.0.0/8", "address": "10.0.0.1",
	"hostname": "name", "mask": "8", "gateway": "10.0.0.2", "type": "tmpfs", "destination": "/tmp",
	"options": "size=65536",
}

// Fields that are refused wherever they are set, or make a request one of something rare.
var unset = map[protoreflect.Name]bool{
	"stdin_port": true, "stdout_port": true, "stderr_port": true, "fs_group": true, "driver_options": true, "offset": true,
	"string_user": true, "kernel_modules": true, "devices": true, "shared_mounts": true, "family": true, "flags": true, "raw_flags": true,
}

func plausible(field protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	word, known := words[field.Name()]
	switch {
	case field.Message() != nil:
		return protoreflect.ValueOfMessage(filled(field.Message(), depth+1))
	case field.Kind() == protoreflect.BytesKind:
		word = "data"
	case !known:
		word = "1"
	}
	return fieldtest.Value(field, word)
}

// containerSeeds are containers that are made, each with other parts of a spec.
func containerSeeds() []*api.CreateContainerRequest {
	process := &api.Process{Args: []string{"/probe", "sleep", "1"}, Cwd: "/data"}
	specs := []*api.Spec{
		{},
		{
			Mounts: []*api.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "ro"}},
				{Destination: "/data", Type: "bind", Source: sandbox.Base + "/shared/containers/root/tmp", Options: []string{"rbind", "ro"}},
				{Destination: "/tmp/new/dir", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=65536", "mode=1777"}},
			},
			Linux: &api.Linux{MaskedPaths: []string{"/proc/keys"}, ReadonlyPaths: []string{"/proc/sys"}},
		},
		{Linux: &api.Linux{
			Sysctl:     map[string]string{"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"},
			Namespaces: []*api.LinuxNamespace{{Type: "ipc"}, {Type: "pid"}},
			Devices:    []*api.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3, FileMode: 0o666}},
			Resources: &api.LinuxResources{
				Memory: &api.LinuxMemory{Limit: 1 << 26}, Pids: &api.LinuxPids{Limit: 10}, CPU: &api.LinuxCPU{Shares: 100, Quota: 1000, Period: 10000},
			},
			Seccomp: &api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Syscalls: []*api.LinuxSyscall{{
				Names: []string{"mkdir"}, Action: "SCMP_ACT_ERRNO", Args: []*api.LinuxSeccompArg{{Index: 1, Value: 2, Op: "SCMP_CMP_EQ"}},
			}}},
		}},
		{Hooks: &api.Hooks{StartContainer: []*api.Hook{{Path: "/probe", Args: []string{"probe", "exit", "0"}, Timeout: 1}}}},
	}
	var seeds []*api.CreateContainerRequest
	for i, spec := range specs {
		spec.Root, spec.Process = &api.Root{Path: sandbox.Base + "/shared/containers/root"}, process
		seeds = append(seeds, &api.CreateContainerRequest{ContainerId: fmt.Sprint("seed", i), OCI: spec, Storages: []*api.Storage{
			{Driver: "local", Fstype: "local", MountPoint: sandbox.Base + "/volumes", Options: []string{"mode=0750", "fsgid=7"}},
		}})
	}
	spec := proto.Clone(specs[0]).(*api.Spec)
	spec.Process.Terminal, spec.Process.ConsoleSize = true, &api.Box{Height: 24, Width: 80}
	spec.Process.Rlimits = []*api.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 100, Soft: 50}}
	spec.Process.Capabilities = &api.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}}
	return append(seeds, &api.CreateContainerRequest{ContainerId: "terminal", ExecId: "terminal", OCI: spec})
}

// guestUnderFuzz is a service with a sandbox and a container that runs. They are made anew when a request has ended them, and
// when a hundred requests may have left something.
type guestUnderFuzz struct {
	service   *Service
	directory string
	calls     int
}

func (g *guestUnderFuzz) methods(t *testing.T) map[string]ttrpc.Method {
	if g.calls++; g.service != nil && (g.calls > 100 || g.service.Sandbox.Running() != nil || !g.hasTenant()) {
		g.end(t)
	}
	if g.service == nil {
		g.begin(t)
	}
	return g.service.agent()
}

func (g *guestUnderFuzz) hasTenant() bool {
	return g.service.Containers.Signal(tenant, "", 0) == nil
}

// run is a call that must succeed.
func (g *guestUnderFuzz) run(t *testing.T, name string, request proto.Message) {
	text, err := proto.Marshal(request)
	if err == nil {
		err = answer(context.Background(), g.service.agent()[name], text)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func (g *guestUnderFuzz) begin(t *testing.T) {
	g.calls = 0
	g.directory = fmt.Sprintf("%s/g-%08d", ground, os.Getpid())
	if err := os.MkdirAll(g.directory, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if g.service, err = newService(g.directory); err != nil {
		t.Fatal(err)
	}
	g.service.Destroyed = func() {}
	g.service.Containers.Launcher.Timeout = 2 * time.Second
	g.run(t, "CreateSandbox", &api.CreateSandboxRequest{Hostname: "sandbox"})
	root := filepath.Join(g.service.SharedDir, "root")
	for _, directory := range []string{"proc", "dev", "tmp", "data"} {
		if err := os.MkdirAll(filepath.Join(root, directory), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/probe", probe(t), 0o755); err != nil {
		t.Fatal(err)
	}
	g.run(t, "CreateContainer", &api.CreateContainerRequest{ContainerId: tenant, ExecId: tenant, OCI: &api.Spec{
		Root: &api.Root{Path: root}, Process: &api.Process{Args: []string{"/probe", "sleep", "1000"}, Cwd: "/"},
	}})
	g.run(t, "StartContainer", &api.StartContainerRequest{ContainerId: tenant})
}

func (g *guestUnderFuzz) end(t *testing.T) {
	if err := g.service.Sandbox.Destroy(); err != nil {
		t.Fatal(err)
	}
	g.service = nil
}

var readProbe = sync.OnceValues(func() ([]byte, error) {
	path, err := buildProbe()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

func probe(t *testing.T) []byte {
	program, err := readProbe()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func (g *guestUnderFuzz) call(t *testing.T, name string, method ttrpc.Method, request []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// both have as many bytes, so that lengths in the request stay right
	request = bytes.ReplaceAll(request, []byte(sandbox.Base), []byte(g.service.Sandbox.Base))
	done := make(chan error, 1)
	go func() { done <- answer(ctx, method, request) }()
	select {
	case err := <-done:
		judge(t, name, err)
	case <-time.After(hang):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs:\n%s", name, stacks[:runtime.Stack(stacks, true)])
	}
}

func answer(ctx context.Context, method ttrpc.Method, request []byte) error {
	_, err := method(ctx, func(into any) error { return proto.Unmarshal(request, into.(proto.Message)) })
	return err
}

func judge(t *testing.T, name string, err error) {
	told, is := status.FromError(err)
	if !is || told.Code() == codes.Unknown {
		t.Errorf("%s: an error without a code: %v", name, err)
	}
	if strings.HasPrefix(told.Message(), "panic in ") {
		t.Errorf("%s: %s", name, told.Message())
	}
}
