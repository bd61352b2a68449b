package server

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
)

// What a program of Go's needs that reads and writes files.
var goNeeds = strings.Fields(`access arch_prctl brk capget clock_gettime clone clone3 close dup3 epoll_create1 epoll_ctl
	epoll_pwait eventfd2 execve exit exit_group fchmodat fcntl fstat futex getcwd getgid getpid getrandom gettid getuid
	ioctl lseek madvise mincore mlock mmap mprotect munmap nanosleep newfstatat openat pipe2 prctl pread64 prlimit64 read
	readlinkat restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield
	set_robust_list set_tid_address sigaltstack statx tgkill timer_create timer_delete timer_settime uname write`)

func rule(action string, errno uint32, names []string, args ...*api.LinuxSeccompArg) *api.LinuxSyscall {
	made := &api.LinuxSyscall{Names: names, Action: action, Args: args}
	if errno != 0 {
		made.ErrnoRet = &api.LinuxSyscall_Errnoret{Errnoret: errno}
	}
	return made
}

func equal(index, value uint64) *api.LinuxSeccompArg {
	return &api.LinuxSeccompArg{Index: index, Value: value, Op: "SCMP_CMP_EQ"}
}

// filtered returns a container that runs the probe under a profile.
func (a *agent) filtered(id, action string, rules []*api.LinuxSyscall, args ...string) *api.CreateContainerRequest {
	a.Helper()
	request := a.create(id, args...)
	request.OCI.Process.NoNewPrivileges = true
	request.OCI.Process.User = &api.User{UID: 0, GID: 0}
	request.OCI.Linux = &api.Linux{Seccomp: &api.LinuxSeccomp{DefaultAction: action, Syscalls: rules}}
	return request
}

// tried runs the probe once more in a container, and returns its exit code and what it said.
func (a *agent) tried(id, exec string, privileges bool, args ...string) (int32, string) {
	a.Helper()
	process := &api.Process{Args: append([]string{"/probe"}, args...), NoNewPrivileges: !privileges}
	if privileges {
		process.User, process.Capabilities = &api.User{UID: 1000, GID: 1000}, &api.LinuxCapabilities{}
	}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: id, ExecId: exec, Process: process})
	return a.exitCode(id, exec), a.output("ReadStdout", id, exec)
}

func TestAFilterHoldsForAllProcessesOfItsContainer(t *testing.T) {
	a := startSandbox(t)
	rules := []*api.LinuxSyscall{
		rule("SCMP_ACT_ERRNO", 0, []string{"renameat", "renameat2"}),
		rule("SCMP_ACT_ERRNO", uint32(unix.ENOSYS), []string{"mkdirat", "no_such_call"}),
		rule("SCMP_ACT_ERRNO", uint32(unix.EDOM), []string{"fchmodat", "fchmodat2"}, equal(2, 0o700)),
		rule("SCMP_ACT_KILL_PROCESS", 0, []string{"unlinkat"}),
	}
	for _, test := range []struct {
		id, words string
		code      int32
		args      []string
	}{
		{"eperm", "operation not permitted", 1, []string{"rename", "/data/a", "/data/b"}},
		{"enosys", "function not implemented", 1, []string{"mkdir", "/data/new"}},
		{"argument", "numerical argument out of domain", 1, []string{"chmod", "/data", "0700"}},
		{"other", `"ok":true`, 0, []string{"chmod", "/data", "0750"}},
		{"killed", "", 128 + int32(unix.SIGSYS), []string{"unlink", "/data/a"}},
	} {
		a.run(a.filtered(test.id, "SCMP_ACT_ALLOW", rules, test.args...))
		a.expect(a.exitCode(test.id, ""), test.code, "exit code of "+test.id)
		if text := a.output("ReadStdout", test.id, ""); !strings.Contains(text, test.words) {
			t.Errorf("%s: %s", test.id, text)
		}
		host := "host-" + test.id
		a.run(a.filtered(host, "SCMP_ACT_ALLOW", rules, "sleep", "100"))
		for exec, privileges := range map[string]bool{"e": false, "f": true} {
			code, text := a.tried(host, exec, privileges, test.args...)
			if privileges && test.id == "other" { // not its owner
				a.expect(strings.Contains(text, "not permitted"), true, "failure of another user: "+text)
				continue
			}
			a.expect(code, test.code, "exit code of one more, "+test.id)
			if !strings.Contains(text, test.words) {
				t.Errorf("%s: %s", test.id, text)
			}
		}
		a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: host, Timeout: 5})
	}
}

// The agent's own calls on the way to the program are not in such a list, and end nobody: with no_new_privs the execve alone
// is under the filter, without it what changes the user.
func TestAListOfWhatIsAllowedNamesNoCallOfTheAgents(t *testing.T) {
	a := startSandbox(t)
	changes := []string{"capset", "setgroups", "setresgid", "setresuid"}
	for id, names := range map[string][]string{"sealed": goNeeds, "privileged": append(changes, goNeeds...)} {
		request := a.filtered(id, "SCMP_ACT_KILL_PROCESS", []*api.LinuxSyscall{rule("SCMP_ACT_ALLOW", 0, names)}, "echo-env", "A")
		request.OCI.Process.NoNewPrivileges = id == "sealed"
		request.OCI.Linux.Seccomp.Flags = []string{
			"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
		}
		request.OCI.Process.User = &api.User{UID: 12, GID: 34}
		request.OCI.Process.Capabilities = &api.LinuxCapabilities{}
		a.run(request)
		a.expect(a.exitCode(id, ""), int32(0), "exit code of "+id)
		a.expect(a.answer(id, "")["uid"], 12.0, "user of "+id)
	}
	request := a.filtered("blocked", "SCMP_ACT_ALLOW", []*api.LinuxSyscall{rule("SCMP_ACT_ERRNO", 0, changes)}, "exit", "0")
	request.OCI.Process.NoNewPrivileges = false
	a.do("CreateContainer", request)
	err := a.call(AgentService, "StartContainer", &api.StartContainerRequest{ContainerId: "blocked"}, &api.StartContainerRequest{})
	if err == nil || !strings.Contains(err.Error(), "the seccomp profile must allow") {
		t.Error(err)
	}
}
