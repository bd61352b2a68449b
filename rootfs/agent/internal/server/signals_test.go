package server

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
)

// The probe shows nothing of what becomes of a signal without a handler: Go's runtime has one for nearly each. These
// are programs of the host's, as every Debian has them.
const (
	sleepProgram = "/bin/sleep"
	shell        = "/bin/sh"
	perl         = "/usr/bin/perl"
)

var paths = regexp.MustCompile(`/\S+`)

// hostProgram makes a container that runs a program of the host's, with the libraries that it needs.
func (a *agent) hostProgram(id, program string, args ...string) *api.CreateContainerRequest {
	a.Helper()
	needed, err := exec.Command("ldd", program).Output()
	a.must(err)
	request := a.create(id)
	for _, path := range append(paths.FindAllString(string(needed), -1), program) {
		content, err := os.ReadFile(path)
		a.must(err)
		copied := filepath.Join(request.OCI.Root.Path, path)
		a.must(os.MkdirAll(filepath.Dir(copied), 0o755))
		a.must(os.WriteFile(copied, content, 0o755))
	}
	request.OCI.Process.Args = append([]string{program}, args...)
	return request
}

func (a *agent) signal(id, exec string, signal unix.Signal) {
	a.Helper()
	a.do("SignalProcess", &api.SignalProcessRequest{ContainerId: id, ExecId: exec, Signal: uint32(signal)})
}

// said reads what a process has said last, having waited for something.
func (a *agent) said(id, exec string) string {
	a.Helper()
	answer := &api.ReadStreamResponse{}
	a.must(a.call(AgentService, "ReadStdout", &api.ReadStreamRequest{ContainerId: id, ExecId: exec, Len: 4096}, answer))
	return string(answer.Data)
}

// firstName returns one of the two names of a container's first process: none, and its own.
func firstName(id string, own bool) string {
	if own {
		return id
	}
	return ""
}

func TestASigtermWithoutEffectIsASigkill(t *testing.T) {
	a := startSandbox(t)
	for _, own := range []bool{false, true} {
		id := fmt.Sprint("idle-", own)
		name := firstName(id, own)
		a.run(a.hostProgram(id, sleepProgram, "1000"))
		for _, signal := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGUSR1, unix.Signal(64)} {
			a.signal(id, name, signal) // which has no effect either, and stays what it is
		}
		time.Sleep(100 * time.Millisecond) // one that was killed has ended by now
		a.signal(id, name, 0)
		a.signal(id, name, unix.SIGTERM)
		a.expect(a.exitCode(id, name), int32(128+9), fmt.Sprintf("exit code of the first process, called %q", name))
	}
}

// What perl does without its modules, by system calls of this architecture. The signal that is taken is the exit code.
var (
	blocked = fmt.Sprintf(
		`$| = 1; my $set = pack("Q", 1 << 14); syscall(%d, 0, $set, 0, 8) == 0 or die "block: $!"; print "ready\n"; `,
		unix.SYS_RT_SIGPROCMASK,
	)
	signalfd = fmt.Sprintf(
		`my $fd = syscall(%d, -1, $set, 8, 0); open(my $file, "<&=", $fd) or die "signalfd: $!"; `+
			`sysread($file, my $info, 128); exit(unpack("L", $info))`, unix.SYS_SIGNALFD4,
	)
	sigwait = fmt.Sprintf(`exit(syscall(%d, $set, 0, 0, 8))`, unix.SYS_RT_SIGTIMEDWAIT)
)

func TestASigtermIsLeftToAFirstProcessThatHasSaidWhatBecomesOfIt(t *testing.T) {
	a := startSandbox(t)
	for i, test := range []struct {
		what, program, flag, text string
		status                    int32
	}{
		{"handles it", perl, "-e", `$SIG{TERM} = sub { exit 7 }; $| = 1; print "ready\n"; sleep 1 while 1`, 7},
		{"ignores it", shell, "-c", `trap "" TERM; echo ready; read line; exit 8`, 8},
		{"blocks it", perl, "-e", blocked + `<STDIN>; exit 9`, 9},
		{"reads a signalfd", perl, "-e", blocked + signalfd, int32(unix.SIGTERM)},
		{"is in sigwait", perl, "-e", blocked + sigwait, int32(unix.SIGTERM)},
	} {
		for _, own := range []bool{false, true} {
			id := fmt.Sprintf("heeds-%d-%v", i, own)
			a.run(a.hostProgram(id, test.program, test.flag, test.text))
			a.expect(a.said(id, ""), "ready\n", "what it said")
			time.Sleep(100 * time.Millisecond) // it waits by now, and is judged by that
			a.signal(id, firstName(id, own), unix.SIGTERM)
			a.do("CloseStdin", &api.CloseStdinRequest{ContainerId: id}) // the end of those that do nothing for the signal
			a.expect(a.exitCode(id, ""), test.status, fmt.Sprintf("exit code of one that %s (its name: %v)", test.what, own))
		}
	}
}

const tellsItsSignals = `for my $name (qw(HUP TERM USR1 USR2)) { $SIG{$name} = sub { syswrite(STDOUT, "$name\n") } } ` +
	`syswrite(STDOUT, "ready\n"); sleep 1 while 1`

// With SIGTERM to the first process no other one is told anything, nor by any other signal.
func TestASignalIsToldToOneProcessAlone(t *testing.T) {
	a := startSandbox(t)
	a.run(a.hostProgram("first", perl, "-e", tellsItsSignals))
	process := &api.Process{Args: []string{perl, "-e", tellsItsSignals}}
	a.do("ExecProcess", &api.ExecProcessRequest{ContainerId: "first", ExecId: "beside", Process: process})
	for _, exec := range []string{"", "beside"} {
		a.expect(a.said("first", exec), "ready\n", "the beginning")
	}
	for _, own := range []bool{false, true} {
		for words, signal := range map[string]unix.Signal{"HUP": unix.SIGHUP, "TERM": unix.SIGTERM, "USR1": unix.SIGUSR1} {
			a.signal("first", firstName("first", own), signal)
			a.expect(a.said("first", ""), words+"\n", "what came to the first process")
		}
	}
	a.signal("first", "beside", unix.SIGUSR2)
	a.expect(a.said("first", "beside"), "USR2\n", "what came to the other one")
	a.signal("first", "", unix.SIGKILL)
	for _, exec := range []string{"", "beside"} {
		a.expect(a.output("ReadStdout", "first", exec), "", "the rest")
	}
}
