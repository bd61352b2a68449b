package seccomp

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// target is an architecture as a filter sees it.
type target struct {
	audit  uint32 // seccomp_data.arch (include/uapi/linux/audit.h)
	calls  string // names and numbers, see numbers.go
	big    bool   // of the two halves of an argument the high one comes first
	x32    bool   // numbers from x32Bit on are those of another ABI
	shared bool   // socketcall(2) and ipc(2) do the work of others
	zero   bool   // 0 is what the kernel has of a number that it does not know
}

// The kernels that we build run no programs of a second ABI (IA32_EMULATION, X86_X32_ABI and COMPAT are off): one audit
// architecture is all there is.
var (
	amd64   = target{audit: unix.AUDIT_ARCH_X86_64, calls: amd64Calls, x32: true}
	arm64   = target{audit: unix.AUDIT_ARCH_AARCH64, calls: arm64Calls}
	ppc64le = target{audit: unix.AUDIT_ARCH_PPC64LE, calls: ppc64leCalls, shared: true}
	s390x   = target{audit: unix.AUDIT_ARCH_S390X, calls: s390xCalls, big: true, shared: true, zero: true}
)

// x32Bit is in the numbers of x86's x32 ABI, whose audit architecture is that of x86_64.
const x32Bit = 1 << 30

// noCall is the number -1, which a tracer sets to have the kernel make no call; it has x32Bit and is no call of x32.
const noCall = 1<<32 - 1

// numbers returns the target's system calls.
func (t *target) numbers() map[string]uint32 {
	numbers, next := map[string]uint32{}, uint32(0)
	for word := range strings.FieldsSeq(t.calls) {
		if number, err := strconv.ParseUint(word, 10, 32); err == nil {
			next = uint32(number)
			continue
		}
		numbers[word] = next
		next++
	}
	return numbers
}

// A part is a system call as one that a shared one is told to make by its first argument.
type part struct {
	call string
	mask uint64 // of the argument, whose other bits the kernel does not look at
	code uint64
}

// parts returns those of socketcall(2) (include/uapi/linux/net.h) and ipc(2) (include/uapi/linux/ipc.h).
func parts() map[string]part {
	all := map[string]part{}
	names := "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown " +
		"setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
	for i, name := range strings.Fields(names) {
		all[name] = part{"socketcall", 0xffffffff, uint64(i) + 1}
	}
	for code, name := range map[uint64]string{
		1: "semop", 2: "semget", 3: "semctl", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv", 13: "msgget", 14: "msgctl",
		21: "shmat", 22: "shmdt", 23: "shmget", 24: "shmctl",
	} {
		all[name] = part{"ipc", 0xffff, code}
	}
	return all
}
