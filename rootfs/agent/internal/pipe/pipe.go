// Package pipe reads pipes under a limit. A limit is for the wait alone: what lies in the pipe is never left there.
package pipe

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Take reads what is there and does not wait, whatever the file's deadline; os.ErrDeadlineExceeded says that there is
// nothing yet, io.EOF that there will be nothing more. The descriptor must not block.
func Take(file *os.File, data []byte) (n int, err error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	// a Read of the file's would not even try once its deadline has passed
	closed := raw.Control(func(fd uintptr) {
		for {
			if n, err = unix.Read(int(fd), data); err != unix.EINTR {
				return
			}
		}
	})
	switch {
	case closed != nil:
		return 0, closed
	case err == unix.EAGAIN:
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, &os.PathError{Op: "read", Path: file.Name(), Err: err}
	case n == 0 && len(data) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Patient reads from a file whose deadline bounds the wait, and takes what is there after the deadline too.
type Patient struct{ File *os.File }

func (p Patient) Read(data []byte) (int, error) {
	n, err := p.File.Read(data)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return Take(p.File, data)
	}
	return n, err
}
