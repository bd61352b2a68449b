package server

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
)

func (a *agent) space(path string) uint64 {
	a.Helper()
	var s unix.Statfs_t
	a.must(unix.Statfs(path, &s))
	return s.Blocks * uint64(s.Bsize)
}

func TestAnEphemeralStorageGetsAnotherSize(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	memory := &api.Storage{
		Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: a.base + "/sandbox/shm",
		Options: []string{"size=1m", "fsgid=5", "noexec"},
	}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{memory}})
	a.must(os.WriteFile(memory.MountPoint+"/file", make([]byte, 1<<19), 0o600))
	update := func(options ...string) *api.UpdateEphemeralMountsRequest {
		return &api.UpdateEphemeralMountsRequest{Storages: []*api.Storage{
			{Driver: "ephemeral", Fstype: "tmpfs", Source: "shm", MountPoint: memory.MountPoint, Options: options},
		}}
	}
	a.do("UpdateEphemeralMounts", update("remount", "size=3m", "fsgid=5"))
	if got := a.space(memory.MountPoint); got != 3<<20 {
		t.Errorf("%d bytes", got)
	}
	a.do("UpdateEphemeralMounts", update())
	a.do("UpdateEphemeralMounts", update("remount,size=2m"))
	if got := a.space(memory.MountPoint); got != 2<<20 {
		t.Errorf("%d bytes", got)
	}
	if info, err := os.Stat(memory.MountPoint + "/file"); err != nil || info.Size() != 1<<19 {
		t.Errorf("what was in it: %v", err)
	}
	var s unix.Statfs_t
	if a.must(unix.Statfs(memory.MountPoint, &s)); s.Flags&unix.ST_NOEXEC == 0 {
		t.Error("an option that no request named has gone")
	}
	a.refused(codes.InvalidArgument, "Too small", "UpdateEphemeralMounts", update("size=4k"))
	a.refused(codes.InvalidArgument, "nonsense", "UpdateEphemeralMounts", update("nonsense=1"))
	a.refused(codes.InvalidArgument, "bind mount", "UpdateEphemeralMounts", update("bind"))
	a.refused(codes.InvalidArgument, "bind mount", "UpdateEphemeralMounts", update("rshared"))
}

func TestOnlyEphemeralStoragesAreUpdated(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	directory := &api.Storage{Driver: "local", Fstype: "local", MountPoint: a.base + "/sandbox/directory"}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{directory}})
	for _, test := range []struct {
		driver, point string
		code          codes.Code
		words         string
	}{
		{"local", directory.MountPoint, codes.InvalidArgument, "only ephemeral"},
		{"ephemeral", directory.MountPoint, codes.NotFound, "no ephemeral storage"},
		{"ephemeral", a.base + "/nowhere", codes.NotFound, "no ephemeral storage"},
		{"ephemeral", "/dev/shm", codes.InvalidArgument, "not below"},
		{"ephemeral", a.base + "/../run", codes.InvalidArgument, "normal form"},
	} {
		request := &api.Storage{Driver: test.driver, MountPoint: test.point, Options: []string{"size=1m"}}
		a.refused(test.code, test.words, "UpdateEphemeralMounts", &api.UpdateEphemeralMountsRequest{Storages: []*api.Storage{request}})
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if a.must(err); strings.Contains(string(text), a.base) {
		t.Errorf("something was mounted:\n%s", text)
	}
}
