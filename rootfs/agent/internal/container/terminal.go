package container

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/descriptor"
	"guestforge.dev/agent/internal/fault"
)

// newTerminal returns the agent's end of a terminal, and the process's, once for each of its standard streams. What the
// process writes comes as its output; of its errors there is no stream of their own.
func newTerminal(size *api.Box) (*streams, []*os.File, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	ours := os.NewFile(uintptr(fd), "terminal")
	theirs, err := otherEnd(fd, size)
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close())
	}
	input, err := descriptor.Duplicate(ours) // to be closed by itself
	none, noneErr := streamPipe(true, 0)
	if err = errors.Join(err, noneErr); err != nil {
		return nil, nil, errors.Join(err, ours.Close(), theirs.Close())
	}
	none[1].Close()
	s := &streams{stdin: input, stdout: newReader(ours), stderr: newReader(none[0]), terminal: ours}
	return s, []*os.File{theirs, theirs, theirs}, nil
}

func otherEnd(fd int, size *api.Box) (*os.File, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock a terminal: %w", err)
	}
	if size.GetHeight() > 0 || size.GetWidth() > 0 {
		if err := setSize(fd, size.GetHeight(), size.GetWidth()); err != nil {
			return nil, err
		}
	}
	// by its own descriptor: whatever is mounted on /dev/pts
	peer, _, number := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if number != 0 {
		return nil, fmt.Errorf("open the other end of a terminal: %w", number)
	}
	return os.NewFile(peer, "terminal"), nil
}

func setSize(fd int, rows, columns uint32) error {
	if rows > math.MaxUint16 || columns > math.MaxUint16 {
		return fault.Invalid("a terminal of %d rows and %d columns", rows, columns)
	}
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(columns)})
}

// Resize tells a process's terminal how large it is.
func (m *Manager) Resize(id, exec string, rows, columns uint32) error {
	p, err := m.process(id, exec)
	if err != nil {
		return err
	}
	if p.streams.terminal == nil {
		return fault.New(codes.FailedPrecondition, "process %q of container %s has no terminal", exec, id)
	}
	return descriptor.Use(p.streams.terminal, func(fd int) error { return setSize(fd, rows, columns) })
}
