package server

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
)

// What logs to /dev/stdout and /dev/stderr opens them by name, whoever it runs as.
func TestAUserMayOpenItsOutputsAnew(t *testing.T) {
	a := startSandbox(t)
	user := &api.User{UID: 1000, GID: 1000}
	for _, name := range []string{"stdout", "stderr"} {
		request := a.create("first-"+name, "put", "/dev/"+name, "some words")
		request.OCI.Process.User, request.OCI.Process.Capabilities = user, &api.LinuxCapabilities{}
		a.run(request)
		a.put("first-"+name, "", name)
	}
	a.run(a.create("host", "sleep", "100"))
	for _, name := range []string{"stdout", "stderr"} {
		process := &api.Process{Args: []string{"/probe", "put", "/dev/" + name, "some words"}, User: user}
		a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "host", ExecId: name, Process: process})
		a.put("host", name, name)
	}
}

// put expects that a process has opened one of its outputs, and written to it.
func (a *agent) put(id, exec, name string) {
	a.Helper()
	out, errors := a.output("ReadStdout", id, exec), a.output("ReadStderr", id, exec)
	if name == "stdout" {
		a.expect(strings.HasPrefix(out, "some words"), true, fmt.Sprintf("that %q has the words", out))
	} else {
		a.expect(errors, "some words", "standard error")
	}
	a.expect(strings.Contains(out, `"error":""`), true, fmt.Sprintf("that %s was opened, by %q", name, out))
}

func TestAnEphemeralStorageIsItsGroups(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	memory := &api.Storage{
		Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: a.base + "/sandbox/volume",
		Options: []string{"size=1m", "fsgid=1234"},
	}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{memory}})
	group := func(path string) uint32 {
		var status unix.Stat_t
		a.must(unix.Stat(path, &status))
		return status.Gid
	}
	a.expect(group(memory.MountPoint), uint32(1234), "the group of the volume")
	a.must(os.WriteFile(memory.MountPoint+"/file", nil, 0o600))
	a.expect(group(memory.MountPoint+"/file"), uint32(1234), "the group of a file in it")
	request := &api.UpdateEphemeralMountsRequest{Storages: []*api.Storage{memory}}
	a.do("UpdateEphemeralMounts", request)
	a.expect(group(memory.MountPoint), uint32(1234), "the group of the volume that was remounted")
}

// Those that containerd 2 puts into every pod whose network is its own (enable_unprivileged_ports, enable_unprivileged_icmp).
func TestKernelParametersOfTheNetworkAreWritten(t *testing.T) {
	a := startSandbox(t)
	request := a.create("pod", "sleep", "100")
	request.OCI.Linux = &api.Linux{Sysctl: map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647",
	}}
	a.do("CreateContainer", request)
	for name, want := range map[string]string{
		"ip_unprivileged_port_start": "0\n", "ping_group_range": "0\t2147483647\n",
	} {
		text, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		a.must(err)
		a.expect(string(text), want, name)
	}
}

func TestLimitsThatNoProcessCanHaveAreNamed(t *testing.T) {
	a := startSandbox(t)
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	a.must(err)
	for words, limit := range map[string]*api.POSIXRlimit{
		"no such limit":                           {Type: "RLIMIT_NONE", Soft: 1, Hard: 2},
		"RLIMIT_CORE of 3 is more than":           {Type: "RLIMIT_CORE", Soft: 3, Hard: 2},
		"open " + strings.TrimSpace(string(text)): {Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1 << 40},
	} {
		request := a.create("greedy", "exit", "0")
		request.OCI.Process.Rlimits = []*api.POSIXRlimit{limit}
		a.refused(codes.InvalidArgument, words, "CreateContainer", request)
	}
}
