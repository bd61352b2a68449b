package server

import (
	"os"
	"path/filepath"
	"testing"

	"guestforge.dev/agent/internal/api"
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
