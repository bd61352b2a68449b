package seccomp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations of seccomp(2) that golang.org/x/sys has not.
const getActionAvailable = 2

// Available tells whether this kernel has filters, with all actions of ours.
func Available() bool {
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, err := unix.RawSyscall(unix.SYS_SECCOMP, getActionAvailable, 0, uintptr(unsafe.Pointer(&action)))
	return err == 0
}

// Install has the kernel put all further calls of this thread, and of what comes of it, through the filter. Nothing takes
// it away again.
func (f *Filter) Install() error {
	if f == nil {
		return nil
	}
	program := unix.SockFprog{Len: uint16(len(f.program)), Filter: &f.program[0]}
	how := uintptr(unix.SECCOMP_SET_MODE_FILTER)
	if _, _, err := unix.RawSyscall(unix.SYS_SECCOMP, how, uintptr(f.flags), uintptr(unsafe.Pointer(&program))); err != 0 {
		return err
	}
	return nil
}
