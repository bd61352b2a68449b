package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
)

// watchable is a volume of the share, as runtimes name it, with a mount point of its own.
func (a *agent) watchable(name string, options ...string) *api.Storage {
	return &api.Storage{
		Driver: "watchable-bind", Fstype: "bind", Source: a.share(name), Options: options,
		MountPoint: a.share("watchable/" + name),
	}
}

func (a *agent) share(name string) string { return filepath.Join(a.base, "shared", "containers", name) }

func (a *agent) write(path, text string) {
	a.Helper()
	a.must(os.MkdirAll(filepath.Dir(path), 0o755))
	a.must(os.WriteFile(path, []byte(text), 0o644))
}

func (a *agent) mountTable() string {
	a.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	a.must(err)
	return string(text)
}

// execs is how many processes were run by `inside`.
var execs int

// inside runs the probe in a container, and returns what it says.
func (a *agent) inside(id string, args ...string) string {
	a.Helper()
	execs++
	exec := fmt.Sprint("e", execs)
	program := &api.Process{Args: append([]string{"/probe"}, args...), Cwd: "/"}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: id, ExecId: exec, Process: program})
	said := a.output("ReadStdout", id, exec)
	a.exitCode(id, exec)
	return said
}

func TestAContainerSeesChangesOfAWatchableVolume(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	a.do("CreateSandbox", &api.CreateSandboxRequest{})
	a.write(a.share("config/..v1/key"), "one")
	a.must(os.Symlink("..v1", a.share("config/..data")))
	a.must(os.Symlink("..data/key", a.share("config/key")))
	a.write(a.share("single"), "alone")
	a.write(a.share("large/file"), strings.Repeat("x", 1<<20+1))
	request := a.create("c", "sleep", "60")
	for _, name := range []string{"config", "single", "large"} {
		volume := a.watchable(name, "rbind", "rprivate", "ro")
		request.Storages = append(request.Storages, volume)
		request.OCI.Mounts = append(request.OCI.Mounts, &api.Mount{
			Destination: "/" + name, Source: volume.MountPoint, Type: "bind", Options: []string{"rbind", "ro"},
		})
	}
	a.run(request)
	first := a.inside("c", "read", "/config/key")
	if !strings.Contains(first, `"size":3`) || !strings.Contains(a.inside("c", "stat", "/config/key"), `"..data/key"`) {
		t.Errorf("the volume: %s", first)
	}
	a.write(a.share("config/..v2/key"), "second")
	a.must(os.Symlink("..v2", a.share("config/..data_tmp")))
	a.must(os.Rename(a.share("config/..data_tmp"), a.share("config/..data")))
	a.must(os.RemoveAll(a.share("config/..v1")))
	a.write(a.share("single"), "changed")
	a.write(a.share("large/file"), "small")
	for path, want := range map[string]string{"/config/key": `"size":6`, "/single": `"size":7`, "/large/file": `"size":5`} {
		for deadline := time.Now().Add(10 * time.Second); !strings.Contains(a.inside("c", "read", path), want); {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not follow", path)
			}
		}
	}
	for name, itself := range map[string]bool{"config/key": false, "single": false, "large/file": true} {
		source, err := os.Stat(a.share(name))
		a.must(err)
		seen, err := os.Stat(a.share("watchable/" + name))
		if a.must(err); os.SameFile(source, seen) != itself {
			t.Errorf("%s is the source itself: %v", name, !itself)
		}
	}
	if said := a.inside("c", "list", "/config"); !strings.Contains(said, `["..data","..v2","key"]`) {
		t.Errorf("%s", said)
	}
	if err := os.WriteFile(a.share("watchable/config/new"), nil, 0o600); err != unix.EROFS && !strings.Contains(fmt.Sprint(err), "read-only") {
		t.Errorf("the mount point can be written to: %v", err)
	}
	a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: "c", Timeout: 10})
	if text := a.mountTable(); strings.Contains(text, a.base) {
		t.Errorf("something is still mounted:\n%s", text)
	}
	if text, err := os.ReadFile(a.share("config/key")); string(text) != "second" {
		t.Errorf("the source: %q, %v", text, err)
	}
	if left, err := os.ReadDir(a.share("watchable")); err != nil || len(left) > 0 {
		t.Errorf("left on the share: %v, %v", left, err)
	}
}

func TestWatchableVolumesThatAreRefused(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	a.do("CreateSandbox", &api.CreateSandboxRequest{})
	a.write(a.share("config/key"), "one")
	a.must(os.Symlink("config", a.share("link")))
	wrong := func(change func(*api.Storage)) *api.CreateContainerRequest {
		request, volume := a.create("c", "sleep", "60"), a.watchable("config")
		change(volume)
		request.Storages = []*api.Storage{volume}
		return request
	}
	for words, test := range map[string]struct {
		code   codes.Code
		change func(*api.Storage)
	}{
		"lies in a directory": {codes.InvalidArgument, func(s *api.Storage) { s.MountPoint = a.base + "/sandbox/config" }},
		"watchable: ":         {codes.InvalidArgument, func(s *api.Storage) { s.MountPoint = a.share("watchable/.copies") }},
		"not below":           {codes.InvalidArgument, func(s *api.Storage) { s.Source = "/etc" }},
		"source of a":         {codes.InvalidArgument, func(s *api.Storage) { s.Source = a.share("..") + "/x/../y" }},
		"size=1m":             {codes.InvalidArgument, func(s *api.Storage) { s.Options = []string{"size=1m"} }},
		"type":                {codes.InvalidArgument, func(s *api.Storage) { s.Fstype = "ext4" }},
		"no such file":        {codes.NotFound, func(s *api.Storage) { s.Source = a.share("nowhere") }},
		"link":                {codes.Internal, func(s *api.Storage) { s.Source = a.share("link/key") }},
	} {
		a.refused(test.code, words, "CreateContainer", wrong(test.change))
	}
	if text := a.mountTable(); strings.Contains(text, a.base) {
		t.Errorf("something is still mounted:\n%s", text)
	}
	a.do("CreateContainer", wrong(func(*api.Storage) {}))
}
