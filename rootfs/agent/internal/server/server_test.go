package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/version"
)

func TestHealth(t *testing.T) {
	a := startAgent(t)
	health := &api.HealthCheckResponse{}
	a.must(a.call(HealthService, "Check", &api.CheckRequest{}, health))
	if health.Status != api.HealthCheckResponse_SERVING {
		t.Errorf("status %v", health.Status)
	}
	versions := &api.VersionCheckResponse{}
	a.must(a.call(HealthService, "Version", &api.CheckRequest{}, versions))
	if versions.GrpcVersion != "0.0.1" || versions.AgentVersion != version.Version {
		t.Errorf("versions %v", versions)
	}
}

func agentMethods() protoreflect.MethodDescriptors {
	return api.File_agent_proto.Services().ByName("AgentService").Methods()
}

func TestEveryMethodHasAnEntry(t *testing.T) {
	entries := (&Service{}).agent()
	for i := range agentMethods().Len() {
		name := string(agentMethods().Get(i).Name())
		if entries[name] == nil {
			t.Errorf("%s has no entry", name)
		}
		delete(entries, name)
	}
	if len(entries) != 0 {
		t.Errorf("entries that are no method of the interface: %v", entries)
	}
	startAgent(t).refused(codes.Unimplemented, "NoSuchMethod", "NoSuchMethod", &emptypb.Empty{})
}

func TestWhatIsNotServedIsRefusedWithItsReason(t *testing.T) {
	a := startAgent(t)
	for name, reason := range map[string]string{
		"GetIPTables": "iptables", "SetIPTables": "iptables", "SetPolicy": "no policy engine", "MemAgentMemcgSet": "memory agent",
		"MemAgentCompactSet": "memory agent", "GetDiagnosticData": "termination log",
	} {
		request := dynamicpb.NewMessage(agentMethods().ByName(protoreflect.Name(name)).Input())
		a.refused(codes.Unimplemented, reason, name, request)
		a.refused(codes.Unimplemented, "not served by this agent", name, request)
	}
}

// Entries take and give the types that the interface declares for their names.
func TestEntriesHaveTheDeclaredTypes(t *testing.T) {
	for name, method := range (&Service{}).agent() {
		declared := agentMethods().ByName(protoreflect.Name(name)).Input().FullName()
		stop := errors.New("stop")
		var asked protoreflect.FullName
		_, err := method(context.Background(), func(into any) error {
			asked = into.(proto.Message).ProtoReflect().Descriptor().FullName()
			return stop
		})
		if asked != declared || status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s takes %s, not %s (%v)", name, asked, declared, err)
		}
	}
}

func TestAPanicIsAnErrorToItsCallerAlone(t *testing.T) {
	method := unary("Boom", func(context.Context, *api.CheckRequest) (*emptypb.Empty, error) { panic("boom") })
	_, err := method(context.Background(), func(any) error { return nil })
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "boom") {
		t.Errorf("error %v", err)
	}
}

func TestErrorsKeepTheirCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{fmt.Errorf("outer: %w", fault.Invalid("inner")), codes.InvalidArgument},
		{&os.PathError{Op: "open", Path: "/x", Err: os.ErrNotExist}, codes.NotFound},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{errors.New("other"), codes.Internal},
		{errors.Join(fault.Unimplemented("this"), nil), codes.Unimplemented},
	} {
		if got := status.Code(withCode(c.err)); got != c.code {
			t.Errorf("%v: %v, not %v", c.err, got, c.code)
		}
	}
}

func TestGuestDetails(t *testing.T) {
	a := startAgent(t)
	details := &api.GuestDetailsResponse{}
	a.must(a.call(AgentService, "GetGuestDetails", &api.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true}, details))
	got := details.AgentDetails
	if got.Version != version.Version || got.InitDaemon != (os.Getpid() == 1) || !got.SupportsSeccomp {
		t.Errorf("details %v", got)
	}
	if handlers := strings.Join(got.StorageHandlers, " "); handlers != "9p blk blk-ccw ephemeral local mmioblk overlayfs scsi virtio-fs watchable-bind" {
		t.Errorf("storage handlers %s", handlers)
	}
}

func TestMetricsHaveKatasNames(t *testing.T) {
	a := startAgent(t)
	metrics := &api.Metrics{}
	a.must(a.call(AgentService, "GetMetrics", &api.GetMetricsRequest{}, metrics))
	for _, name := range []string{"kata_guest_meminfo{item=\"mem_available\"} ", "kata_guest_load{item=\"load1\"} ", "kata_agent_total_rss "} {
		if !strings.Contains(metrics.Metrics, "\n"+name) {
			t.Errorf("no %s in\n%.2000s", name, metrics.Metrics)
		}
	}
}

func TestCopyFileInPieces(t *testing.T) {
	a := startAgent(t)
	path := filepath.Join(a.base, "shared", "containers", "a", "file")
	request := &api.CopyFileRequest{
		Path: path, FileSize: 6, FileMode: 0o100640, DirMode: 0o750,
		Uid: int32(os.Getuid()), Gid: int32(os.Getgid()), Data: []byte("abc"),
	}
	a.do("CopyFile", request)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is there before its last piece: %v", err)
	}
	request.Offset, request.Data = 3, []byte("def")
	a.do("CopyFile", request)
	if content, err := os.ReadFile(path); err != nil || string(content) != "abcdef" {
		t.Errorf("content %q, %v", content, err)
	}
	request.Path = a.base + "/elsewhere"
	a.refused(codes.InvalidArgument, "not below", "CopyFile", request)
}

func TestContainersNeedASandbox(t *testing.T) {
	a := startAgent(t)
	a.refused(codes.FailedPrecondition, "CreateSandbox", "CreateContainer", &api.CreateContainerRequest{ContainerId: "c"})
}

func TestAFailedSandboxLeavesNothing(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	good := &api.Storage{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: a.base + "/sandbox/shm"}
	bad := &api.Storage{Driver: "blk", Fstype: "ext4", Source: "1f/1f", MountPoint: a.base + "/sandbox/disk"}
	a.refused(codes.NotFound, "1f/1f did not come", "CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{good, bad}})
	if text, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(text), a.base) {
		t.Errorf("something is still mounted:\n%s", text)
	}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{good}})
	a.refused(codes.AlreadyExists, "there is a sandbox", "CreateSandbox", &api.CreateSandboxRequest{})
	stats := &api.VolumeStatsResponse{}
	a.must(a.call(AgentService, "GetVolumeStats", &api.VolumeStatsRequest{VolumeGuestPath: good.MountPoint}, stats))
	if len(stats.Usage) != 2 || stats.Usage[0].Total == 0 || stats.Usage[1].Total == 0 {
		t.Errorf("volume %v", stats)
	}
	a.do("DestroySandbox", &api.DestroySandboxRequest{})
	<-a.destroyed
	if text, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(text), a.base) {
		t.Errorf("something is still mounted:\n%s", text)
	}
}
