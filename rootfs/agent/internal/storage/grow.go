package storage

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/fault"
)

// The number of an ioctl(2) has the size of its argument, and the direction in two bits, which powerpc has the other way
// round (include/uapi/asm-generic/ioctl.h, arch/powerpc/include/uapi/asm/ioctl.h). One that reads is known: BLKGETSIZE64.
const directions = 0xc0000000

// writing returns the number of an ioctl that writes, made of a known one that reads.
func writing(known, kind, number, size uint32) uint {
	return uint(^known&directions | size<<16 | kind<<8 | number)
}

// growExt4 asks for a number of blocks: EXT4_IOC_RESIZE_FS (include/uapi/linux/ext4.h). The kernel refuses fewer.
func growExt4(volume *os.File, blocks uint64) error {
	number := writing(unix.BLKGETSIZE64, 'f', 16, uint32(unsafe.Sizeof(blocks)))
	_, _, err := unix.Syscall(unix.SYS_IOCTL, volume.Fd(), uintptr(number), uintptr(unsafe.Pointer(&blocks)))
	if err == 0 {
		return nil
	}
	if errors.Is(err, unix.EINVAL) {
		return fault.Invalid("%s has more than %d blocks: a file system is not made smaller", volume.Name(), blocks)
	}
	return err
}
