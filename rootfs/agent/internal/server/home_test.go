package server

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"guestforge.dev/agent/internal/api"
)

// HOME is of the passwd in the container, not of the guest's; for its first process and for each one more.
func TestHomeIsWhatTheContainersPasswdSays(t *testing.T) {
	a := startSandbox(t)
	const passwd = "root:x:0:0::/roots:/bin/sh\nuser:x:1012:1034::/home/of-the-container:/bin/sh\n"
	furnished := func(id string, args ...string) *api.CreateContainerRequest {
		request := a.create(id, args...)
		etc := filepath.Join(request.OCI.Root.Path, "etc")
		a.must(os.Mkdir(etc, 0o755))
		a.must(os.WriteFile(filepath.Join(etc, "passwd"), []byte(passwd), 0o644))
		return request
	}
	a.run(furnished("host", "sleep", "100"))
	for i, test := range []struct {
		uid  uint32
		env  []string
		want string
	}{
		{0, nil, "/roots"}, {1012, []string{"A=b"}, "/home/of-the-container"}, {1013, nil, "/"},
		{1012, []string{"HOME=/of-the-spec"}, "/of-the-spec"},
	} {
		user := &api.User{UID: test.uid, GID: 1034}
		request := furnished(fmt.Sprint("first", i), "echo-env", "HOME")
		request.OCI.Process.User, request.OCI.Process.Env = user, test.env
		a.run(request)
		a.expect(a.answer(request.ContainerId, "")["value"], test.want, "HOME of a first process")
		process := &api.Process{Args: []string{"/probe", "echo-env", "HOME"}, User: user, Env: test.env}
		id := fmt.Sprint("e", i)
		a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "host", ExecId: id, Process: process})
		a.expect(a.answer("host", id)["value"], test.want, "HOME of one more process")
	}
	a.run(a.create("bare", "echo-env", "HOME"))
	a.expect(a.answer("bare", "")["value"], "/", "HOME without a passwd")
}
