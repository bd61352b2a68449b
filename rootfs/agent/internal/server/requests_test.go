package server

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fields/fieldtest"
)

// Each field of each request alone: it is in one of the tables, and refused by its name if it is in that one. Specs, processes
// and resources have a test of their own in package container.
func TestEveryFieldOfARequestHasAnAnswer(t *testing.T) {
	tops := []protoreflect.MessageDescriptor{(&api.CheckRequest{}).ProtoReflect().Descriptor()}
	for i := range agentMethods().Len() {
		method := agentMethods().Get(i)
		if refused()[string(method.Name())] == nil && !slices.Contains(tops, method.Input()) {
			tops = append(tops, method.Input())
		}
	}
	if lines := fieldtest.Hold(t, &requests, tops...); lines < 10 {
		t.Errorf("only %d fields are refused: this test shows nothing", lines)
	}
}

func TestWhatARequestHasBesideWhatIsServedIsRefused(t *testing.T) {
	a := startSandbox(t)
	program := &api.Process{Args: []string{"/probe", "exit", "0"}}
	user := &api.StringUser{Uid: "nobody"}
	encrypted := &api.Storage{Driver: "blk", Source: "/dev/vda", DriverOptions: []string{"encryption_key=ephemeral"}}
	given := &api.Storage{Driver: "ephemeral", Fstype: "tmpfs", MountPoint: a.base + "/x", FsGroup: &api.FSGroup{GroupId: 5}}
	modules := []*api.KernelModule{{Name: "fuse"}}
	calls := map[string]proto.Message{
		"CreateSandboxRequest.kernel_modules":  &api.CreateSandboxRequest{KernelModules: modules},
		"Storage.driver_options":               &api.CreateSandboxRequest{Storages: []*api.Storage{encrypted}},
		"Storage.fs_group":                     &api.UpdateEphemeralMountsRequest{Storages: []*api.Storage{given}},
		"CreateContainerRequest.string_user":   &api.CreateContainerRequest{StringUser: user},
		"CreateContainerRequest.devices":       &api.CreateContainerRequest{Devices: []*api.Device{{Id: "vfio0"}}},
		"CreateContainerRequest.shared_mounts": &api.CreateContainerRequest{SharedMounts: []*api.SharedMount{{Name: "m"}}},
		"CreateContainerRequest.stdin_port":    &api.CreateContainerRequest{StdinPort: 1},
		"CreateContainerRequest.stdout_port":   &api.CreateContainerRequest{StdoutPort: 1},
		"CreateContainerRequest.stderr_port":   &api.CreateContainerRequest{StderrPort: 1},
		"ExecProcessRequest.string_user":       &api.ExecProcessRequest{StringUser: user, Process: program},
		"ExecProcessRequest.stdin_port":        &api.ExecProcessRequest{StdinPort: 1, Process: program},
		"ExecProcessRequest.stdout_port":       &api.ExecProcessRequest{StdoutPort: 1, Process: program},
		"ExecProcessRequest.stderr_port":       &api.ExecProcessRequest{StderrPort: 1, Process: program},
	}
	for field, request := range calls {
		kind := string(request.ProtoReflect().Descriptor().Name())
		a.refused(codes.Unimplemented, field, kind[:len(kind)-len("Request")], request)
	}
	for name := range unserved {
		if calls[name] == nil {
			t.Errorf("%s is refused by no call of this test", name)
		}
	}
}

func TestAFieldOfANewerAPIIsRefusedInAnyRequest(t *testing.T) {
	a := startAgent(t)
	request := &api.SetGuestDateTimeRequest{}
	request.ProtoReflect().SetUnknown(protoreflect.RawFields{0xfa, 0x06, 0x00}) // field 111, empty
	a.refused(codes.Unimplemented, "a newer API", "SetGuestDateTime", request)
}

// A process that is started beside the first one is held to the table of the spec as well.
func TestAProcessWithLessProtectionThanItAsksForIsNotStarted(t *testing.T) {
	a := startSandbox(t)
	a.run(a.create("host", "sleep", "100"))
	for field, change := range map[string]func(*api.Process){
		"Process.ApparmorProfile": func(p *api.Process) { p.ApparmorProfile = "strict" },
		"Process.SelinuxLabel":    func(p *api.Process) { p.SelinuxLabel = "system_u:system_r:container_t:s0" },
		"Process.User.Username":   func(p *api.Process) { p.User = &api.User{Username: "nobody"} },
	} {
		process := &api.Process{Args: []string{"/probe", "exit", "0"}}
		change(process)
		one := &api.ExecProcessRequest{ContainerId: "host", ExecId: "e", Process: process}
		a.refused(codes.Unimplemented, field, "ExecProcess", one)
		request := a.create("other", "exit", "0")
		change(request.OCI.Process)
		a.refused(codes.Unimplemented, field, "CreateContainer", request)
	}
	process := &api.Process{Args: []string{"/probe", "exit", "7"}}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "host", ExecId: "e", Process: process})
	a.expect(a.exitCode("host", "e"), int32(7), "exit code")
}
