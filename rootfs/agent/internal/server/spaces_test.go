package server

import (
	"os"
	"testing"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
)

// space tells which namespace of a kind a container's processes are in.
func (a *agent) space(id, kind, hostname string) string {
	a.Helper()
	request := a.create(id, "stat", "/proc/self/ns/"+kind)
	request.OCI.Hostname = hostname
	a.run(request)
	return a.answer(id, "")["target"].(string)
}

func TestContainersShareTheSandboxsNamespaces(t *testing.T) {
	a := startSandbox(t)
	before := map[string]string{}
	for _, kind := range []string{"ipc", "uts"} {
		first, second := a.space("a-"+kind, kind, ""), a.space("b-"+kind, kind, "sandbox")
		a.expect(second, first, "the "+kind+" namespace")
		own, err := os.Readlink("/proc/self/ns/" + kind)
		a.must(err)
		if first == own {
			t.Errorf("containers are in the guest's own %s namespace", kind)
		}
		before[kind] = first
	}
	held := a.create("holds", "sleep", "100")
	held.OCI.Hostname = ""
	a.run(held)
	process := &api.Process{Args: []string{"/probe", "stat", "/proc/self/ns/ipc"}}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "holds", ExecId: "e", Process: process})
	a.expect(a.answer("holds", "e")["target"], before["ipc"], "the ipc namespace of one more process")
	old, err := a.box.Spaces() // the kernel may give the numbers of namespaces that are gone to new ones
	a.must(err)
	defer old.Close()
	a.do("DestroySandbox", &api.DestroySandboxRequest{})
	a.do("CreateSandbox", &api.CreateSandboxRequest{Hostname: "other"})
	for kind, then := range before {
		if got := a.space("c-"+kind, kind, ""); got == then {
			t.Errorf("the next sandbox has the %s namespace of the one before", kind)
		}
	}
}

func TestAContainersOwnNameIsNotTheSandboxs(t *testing.T) {
	a := startSandbox(t)
	for _, name := range []string{"box", "", "sandbox"} {
		request := a.create("called"+name, "echo-env", "A")
		request.OCI.Hostname = name
		a.run(request)
		want := name
		if want == "" {
			want = "sandbox"
		}
		a.expect(a.answer("called"+name, "")["hostname"], want, "host name")
	}
	guest, err := os.Hostname()
	a.must(err)
	if guest == "sandbox" || guest == "box" {
		t.Errorf("the guest has become %s", guest)
	}
}

func TestASandboxWithoutANameHasTheGuests(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	a.do("CreateSandbox", &api.CreateSandboxRequest{})
	request := a.create("nameless", "echo-env", "A")
	request.OCI.Hostname = ""
	a.run(request)
	guest, err := os.Hostname()
	a.must(err)
	a.expect(a.answer("nameless", "")["hostname"], guest, "host name")
}

// What a container that joined another's pid namespace has started is told by its cgroup alone.
func TestNobodyJoinsAPidNamespaceWithoutCgroups(t *testing.T) {
	a := startSandbox(t)
	request := a.create("pause", "sleep", "100")
	request.SandboxPidns = true // of the first one, which has nothing to join
	a.run(request)
	request = a.create("joins", "sleep", "100")
	request.SandboxPidns = true
	a.refused(codes.Unimplemented, "without cgroups", "CreateContainer", request)
	a.do("DestroySandbox", &api.DestroySandboxRequest{})
	a.do("CreateSandbox", &api.CreateSandboxRequest{SandboxPidns: true})
	a.run(a.create("pause", "sleep", "100"))
	a.refused(codes.Unimplemented, "without cgroups", "CreateContainer", a.create("joins", "sleep", "100"))
}
