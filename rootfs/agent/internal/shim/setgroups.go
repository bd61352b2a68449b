package shim

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setgroups is the bare system call, for this thread alone.
func setgroups(groups []uint32) error {
	_, _, err := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if err != 0 {
		return err
	}
	return nil
}
