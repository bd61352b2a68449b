package server

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/safepath/pathtest"
)

// Images have links to what a volume or the running system brings: /etc/localtime, /var/run.
func TestMountsAreWhereLinksWithoutATargetLead(t *testing.T) {
	a := startSandbox(t)
	volume := filepath.Join(a.base, "shared", "containers", "volume")
	a.must(os.MkdirAll(volume, 0o755))
	a.must(os.WriteFile(filepath.Join(volume, "file"), []byte("12345"), 0o644))
	request := a.create("linked", "read", "/nowhere/file")
	root := request.OCI.Root.Path
	for name, target := range map[string]string{"dir": "/nowhere/dir", "tmp": "../nowhere/tmp", "file": "/nowhere/file", "cwd": "/nowhere/cwd"} {
		a.must(os.Symlink(target, filepath.Join(root, "data", name)))
	}
	request.OCI.Process.Cwd = "/data/cwd"
	request.OCI.Mounts = append(request.OCI.Mounts,
		&api.Mount{Destination: "/data/dir/below", Type: "bind", Source: volume, Options: []string{"bind"}},
		&api.Mount{Destination: "/data/tmp", Type: "tmpfs", Source: "tmpfs"},
		&api.Mount{Destination: "/data/file", Type: "bind", Source: filepath.Join(volume, "file"), Options: []string{"bind"}},
	)
	a.run(request)
	a.expect(a.answer("linked", "")["size"], 5.0, "the size of the file")
	for _, path := range []string{"dir/below", "tmp", "file", "cwd"} {
		if _, err := os.Stat(filepath.Join(root, "nowhere", path)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat("/nowhere"); err == nil {
		t.Error("a link was followed out of the container")
	}
	request = a.create("there", "echo-env", "A")
	a.must(os.Symlink("/nowhere/cwd", filepath.Join(request.OCI.Root.Path, "data", "cwd")))
	request.OCI.Process.Cwd = "/data/cwd"
	a.run(request)
	a.expect(a.answer("there", "")["cwd"], "/nowhere/cwd", "the working directory")
}

func TestOneMoreProcessIsWhereALinkWithoutATargetLeads(t *testing.T) {
	a := startSandbox(t)
	request := a.create("host", "sleep", "100")
	root := request.OCI.Root.Path
	a.must(os.Symlink("/nowhere/cwd", filepath.Join(root, "data", "cwd")))
	a.run(request)
	for _, id := range []string{"makes", "finds"} {
		process := &api.Process{Args: []string{"/probe", "echo-env", "A"}, Cwd: "/data/cwd/below"}
		a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "host", ExecId: id, Process: process})
		a.expect(a.answer("host", id)["cwd"], "/nowhere/cwd/below", "the working directory")
	}
	if _, err := os.Stat(filepath.Join(root, "nowhere/cwd/below")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat("/nowhere"); err == nil {
		t.Error("a link was followed out of the container")
	}
}

// volumes makes a volume that a container writes to, and a directory of the guest's with a secret in it.
func (a *agent) volumes() (volume, outside string) {
	a.Helper()
	outside = a.TempDir()
	a.must(os.Mkdir(filepath.Join(outside, "sub"), 0o700))
	for _, path := range []string{"secret", "sub/secret"} {
		a.must(os.WriteFile(filepath.Join(outside, path), []byte("the guest's"), 0o600))
	}
	volume = filepath.Join(a.base, "shared", "containers", "volume")
	a.must(os.MkdirAll(volume, 0o755))
	return volume, outside
}

// binds makes a container that has a path of a volume at its own.
func (a *agent) binds(id, source, destination string, args ...string) *api.CreateContainerRequest {
	a.Helper()
	request := a.create(id, args...)
	request.OCI.Mounts = append(request.OCI.Mounts, &api.Mount{
		Destination: destination, Type: "bind", Source: source, Options: []string{"rbind"},
	})
	return request
}

// What a container writes into a volume may be a link by the time that another one has it mounted.
func TestALinkOnTheWayToASourceIsRefused(t *testing.T) {
	a := startSandbox(t)
	volume, outside := a.volumes()
	a.must(os.Symlink(outside, filepath.Join(volume, "directory")))
	a.must(os.Symlink(filepath.Join(outside, "secret"), filepath.Join(volume, "file")))
	a.must(os.Symlink("..", filepath.Join(volume, "within")))
	for _, source := range []string{
		"directory", "directory/sub", "directory/secret", "directory/sub/secret", "directory/none", "file", "within", "within/volume",
	} {
		request := a.binds("linked", filepath.Join(volume, source), "/data", "exit", "0")
		a.refused(codes.Internal, "too many levels", "CreateContainer", request)
	}
}

// The same while the link comes and goes, last on the way or in its middle, to a directory or to a file: what was looked at is
// what is mounted.
func TestALinkThatComesAndGoesIsNeverFollowed(t *testing.T) {
	a := startSandbox(t)
	volume, outside := a.volumes()
	a.must(os.MkdirAll(filepath.Join(volume, "directory", "sub"), 0o755))
	for _, path := range []string{"file", "directory/secret", "directory/sub/secret"} {
		a.must(os.WriteFile(filepath.Join(volume, path), nil, 0o600))
	}
	a.must(os.Symlink(outside, filepath.Join(volume, "link")))
	a.must(os.Symlink(filepath.Join(outside, "secret"), filepath.Join(volume, "file-link")))
	for _, test := range []struct{ swapped, link, source, destination, secret string }{
		{"directory", "link", "directory", "/data", "/data/secret"},
		{"directory", "link", "directory/sub", "/data", "/data/secret"},
		{"directory", "link", "directory/sub/secret", "/data/secret", "/data/secret"},
		{"file", "file-link", "file", "/data/secret", "/data/secret"},
	} {
		stop := pathtest.Exchanging(filepath.Join(volume, test.swapped), filepath.Join(volume, test.link))
		ran := 0
		for range 20 {
			request := a.binds("swap", filepath.Join(volume, test.source), test.destination, "read", test.secret)
			if a.call(AgentService, "CreateContainer", request, &emptypb.Empty{}) != nil {
				continue
			}
			ran++
			a.do("StartContainer", &api.StartContainerRequest{ContainerId: "swap"})
			a.expect(a.answer("swap", "")["size"], 0.0, "the size of "+test.source)
			a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: "swap"})
		}
		if stop(); ran == 0 {
			t.Errorf("%s: no container was made: this test shows nothing", test.source)
		}
	}
}
