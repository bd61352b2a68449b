package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
)

// Numbers from the kernel's own headers, 6.12: arch/*/include/generated/uapi/asm/unistd_64.h of a built tree.
func TestNumbersAreTheKernels(t *testing.T) {
	for name, want := range map[string]map[string]uint32{
		"amd64": {"read": 0, "openat": 257, "newfstatat": 262, "personality": 135, "sync_file_range": 277, "arch_prctl": 158},
		"arm64": {"read": 63, "openat": 56, "newfstatat": 79, "personality": 92, "sync_file_range": 84, "mmap": 222},
		"ppc64le": {
			"read": 3, "openat": 286, "newfstatat": 291, "personality": 136, "sync_file_range2": 308, "socketcall": 102,
			"send": 334, "_llseek": 140, "swapcontext": 249,
		},
		"s390x": {
			"read": 3, "openat": 288, "newfstatat": 293, "personality": 136, "sync_file_range": 307, "ipc": 117,
			"s390_pci_mmio_read": 353,
		},
	} {
		numbers := targets[name].numbers()
		for each, number := range map[string]uint32{"clone3": 435, "openat2": 437, "mseal": 462} {
			want[each] = number
		}
		for call, number := range want {
			if got, known := numbers[call]; !known || got != number {
				t.Errorf("%s: %s is %d, not %d", name, call, got, number)
			}
		}
		seen := map[uint32]string{}
		for call, number := range numbers {
			if before := seen[number]; before != "" {
				t.Errorf("%s: %d is both %s and %s", name, number, before, call)
			}
			seen[number] = call
		}
	}
	if native != targets[runtime.GOARCH] || native.numbers()["execve"] != unix.SYS_EXECVE {
		t.Errorf("%s has the table of another architecture", runtime.GOARCH)
	}
}

func repeated(count int, make func(i int) *api.LinuxSyscall) *api.LinuxSeccomp {
	p := some("SCMP_ACT_ALLOW")
	for i := range count {
		p.Syscalls = append(p.Syscalls, make(i))
	}
	return p
}

func TestMalformedProfilesAreRefusedByTheirField(t *testing.T) {
	read := []string{"read"}
	trap := func(args ...*api.LinuxSeccompArg) *api.LinuxSeccomp {
		return some("SCMP_ACT_ALLOW", on(read, "SCMP_ACT_LOG"), on(read, "SCMP_ACT_TRAP", args...))
	}
	marked := func(flag, arch string) *api.LinuxSeccomp {
		p := some("SCMP_ACT_ALLOW")
		p.Flags, p.Architectures = []string{"SECCOMP_FILTER_FLAG_LOG", flag}, []string{"SCMP_ARCH_X32", arch}
		return p
	}
	for _, test := range []struct {
		words string
		p     *api.LinuxSeccomp
	}{
		{"DefaultAction: no such action", some("SCMP_ACT_X")},
		{"DefaultAction: no such action", some("", on(read, "SCMP_ACT_ALLOW"))},
		{"Syscalls[0].Action: no such action", some("SCMP_ACT_ALLOW", on(read, "allow"))},
		{"Syscalls[0].Action: SCMP_ACT_ERRNO with 4096", some("SCMP_ACT_ALLOW", with(4096, on(read, "SCMP_ACT_ERRNO")))},
		{"Syscalls[0].Action: SCMP_ACT_TRACE with 65536", some("SCMP_ACT_ALLOW", with(65536, on(read, "SCMP_ACT_TRACE")))},
		{"Syscalls[0].Action: SCMP_ACT_TRAP with an errno", some("SCMP_ACT_ALLOW", with(1, on(read, "SCMP_ACT_TRAP")))},
		{"Syscalls[0].Names: a rule for no", some("SCMP_ACT_ALLOW", on(nil, "SCMP_ACT_TRAP"))},
		{"Syscalls[0].Names: not a name", some("SCMP_ACT_ALLOW", on([]string{""}, "SCMP_ACT_TRAP"))},
		{"Syscalls[0].Names: not a name", some("SCMP_ACT_ALLOW", on([]string{strings.Repeat("x", 65)}, "SCMP_ACT_TRAP"))},
		{"Syscalls[1].Args[1].Index: 6, at most 5", trap(arg(5, "EQ", 1), arg(6, "EQ", 1))},
		{"Syscalls[1].Args[0].Index", trap(arg(1<<63, "EQ", 1))},
		{"Syscalls[1].Args[0].Op: no such comparison", trap(arg(0, "XX", 1))},
		{"Syscalls[1].Args[0].Op: no such comparison", trap(&api.LinuxSeccompArg{})},
		{"Flags: no such flag", marked("SECCOMP_FILTER_FLAG_NEW_LISTENER", "SCMP_ARCH_X86")},
		{"Architectures: no such arch", marked("SECCOMP_FILTER_FLAG_TSYNC", "X86")},
		{"Architectures: no such arch", marked("SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SCMP_ARCH_VAX")},
		{"1025 rules", repeated(1025, func(int) *api.LinuxSyscall { return on(read, "SCMP_ACT_LOG") })},
		{"9000 names", repeated(1000, func(int) *api.LinuxSyscall {
			return on(strings.Fields(strings.Repeat("x ", 9)), "SCMP_ACT_LOG")
		})},
		{"more than 1024 conditions", repeated(205, func(i int) *api.LinuxSyscall {
			value := uint64(i)
			return on(read, "SCMP_ACT_LOG", arg(0, "EQ", value), arg(1, "EQ", value), arg(2, "EQ", value), arg(3, "EQ", value), arg(4, "EQ", value))
		})},
		{"instructions, at most 4096", repeated(1000, func(i int) *api.LinuxSyscall {
			return on(read, "SCMP_ACT_LOG", arg(0, "MASKED_EQ", uint64(i), uint64(i)))
		})},
	} {
		for name, to := range targets {
			_, err := compile(to, test.p)
			var refusal *fault.Error
			if !errors.As(err, &refusal) || refusal.Code != codes.InvalidArgument || !strings.Contains(err.Error(), test.words) {
				t.Errorf("%s: %v, not invalid with %q", name, err, test.words)
			}
		}
	}
}

// The names of other architectures take no room in the program, and none in memory.
func TestNamesThatAreNotThereCostNothing(t *testing.T) {
	var conditions []*api.LinuxSeccompArg
	for i := range 20000 {
		conditions = append(conditions, arg(uint64(i%6), "EQ", uint64(i)))
	}
	p := some("SCMP_ACT_ALLOW", on(slices.Repeat([]string{"no_such_call"}, maxNames), "SCMP_ACT_TRAP", conditions...))
	begun := time.Now()
	filter, err := Compile(p)
	if took := time.Since(begun); err != nil || len(filter.program) > 10 || took > time.Second {
		t.Errorf("%v, %v", err, took)
	}
}

func TestWhatNeedsASupervisorIsNotServed(t *testing.T) {
	flagged := some("SCMP_ACT_ALLOW")
	flagged.Flags = []string{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}
	for _, p := range []*api.LinuxSeccomp{
		some("SCMP_ACT_NOTIFY"), some("SCMP_ACT_ALLOW", on([]string{"read"}, "SCMP_ACT_NOTIFY")), flagged,
	} {
		_, err := Compile(p)
		var refusal *fault.Error
		if !errors.As(err, &refusal) || refusal.Code != codes.Unimplemented || !strings.Contains(err.Error(), "_NOTIFY") {
			t.Errorf("%v of %v", err, p)
		}
	}
}

func TestWhatEnginesSendIsServed(t *testing.T) {
	p := some("SCMP_ACT_ERRNO", with(0, on([]string{"read", "arm_fadvise64_64"}, "SCMP_ACT_ALLOW")))
	for _, name := range architectures {
		p.Architectures = append(p.Architectures, "SCMP_ARCH_"+name)
	}
	p.Flags = []string{"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"}
	filter, err := Compile(p)
	if err != nil || filter.flags != unix.SECCOMP_FILTER_FLAG_LOG|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
		t.Errorf("%v, %v", filter, err)
	}
	for _, nothing := range []*api.LinuxSeccomp{nil, {}, {Architectures: []string{"SCMP_ARCH_X86"}}} {
		if filter, err := Compile(nothing); filter != nil || err != nil {
			t.Errorf("%v: %v, %v", nothing, filter, err)
		}
	}
	if err := (*Filter)(nil).Install(); err != nil {
		t.Error(fmt.Errorf("a container without a profile: %w", err))
	}
}
