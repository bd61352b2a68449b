package server

import (
	"testing"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
)

func TestAHookOfTheStartRunsInTheContainerFirst(t *testing.T) {
	a := startSandbox(t)
	request := a.create("hooked", "stat", "/data/made")
	request.OCI.Process.User = &api.User{UID: 0, GID: 34}
	hook := &api.Hook{Path: "/probe", Args: []string{"probe", "write", "/data/made", "3", "seed"}, Timeout: 10}
	request.OCI.Hooks = &api.Hooks{StartContainer: []*api.Hook{hook}}
	a.do("CreateContainer", request)
	a.do("StartContainer", &api.StartContainerRequest{ContainerId: "hooked"})
	said := a.answer("hooked", "")
	a.expect(said["size"], 3.0, "the size of what the hook made")
	a.expect(said["gid"], 34.0, "its group")
}

func TestAHookThatFailsEndsTheStart(t *testing.T) {
	a := startSandbox(t)
	request := a.create("hooked", "sleep", "100")
	hook := &api.Hook{Path: "/probe", Args: []string{"probe", "stat", "/nothing"}}
	request.OCI.Hooks = &api.Hooks{StartContainer: []*api.Hook{hook}}
	a.do("CreateContainer", request)
	a.refused(codes.Internal, "/nothing", "StartContainer", &api.StartContainerRequest{ContainerId: "hooked"})
	if a.exitCode("hooked", "") == 0 {
		t.Error("the container ended well")
	}
	a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: "hooked", Timeout: 5})
}

func TestHooksOfTheRuntimesSideAreRefused(t *testing.T) {
	a := startSandbox(t)
	some := []*api.Hook{{Path: "/probe"}}
	for name, hooks := range map[string]*api.Hooks{
		"Prestart": {Prestart: some}, "Poststart": {Poststart: some}, "Poststop": {Poststop: some},
		"CreateRuntime": {CreateRuntime: some}, "CreateContainer": {CreateContainer: some},
	} {
		request := a.create("hooked", "exit", "0")
		request.OCI.Hooks = hooks
		a.refused(codes.Unimplemented, "Hooks."+name, "CreateContainer", request)
	}
	request := a.create("hooked", "exit", "0")
	request.OCI.Hooks = &api.Hooks{StartContainer: []*api.Hook{{Path: "relative"}}}
	a.refused(codes.InvalidArgument, "relative", "CreateContainer", request)
}
