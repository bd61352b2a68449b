// Package descriptor gets at the descriptors of files and sockets that Go's runtime waits for: it must not close them
// meanwhile, nor let them block.
package descriptor

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Use calls do with a descriptor, which stays open as long as that takes, and returns its error.
func Use(file syscall.Conn, do func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := raw.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

// Duplicate opens once more what a file has open.
func Duplicate(file *os.File) (*os.File, error) {
	var copied int
	err := Use(file, func(fd int) (err error) {
		copied, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "duplicate", Path: file.Name(), Err: err}
	}
	return os.NewFile(uintptr(copied), file.Name()), nil
}
