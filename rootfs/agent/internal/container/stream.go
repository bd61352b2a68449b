package container

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/pipe"
	"guestforge.dev/agent/internal/shim"
)

const (
	// drain is how long output is waited for after the process's end: others may hold the other end of the pipe.
	drain   = 500 * time.Millisecond
	maxRead = 64 << 10 // a pipe holds no more unless it was enlarged
)

// reader is the agent's end of an output stream. Calls take turns, so what one call gave up is there for the next.
type reader struct {
	file *os.File
	turn chan struct{}
	over chan struct{} // closed when somebody was told the end

	mu    sync.Mutex
	limit time.Time // once the process has ended
}

func newReader(file *os.File) *reader {
	return &reader{file: file, turn: make(chan struct{}, 1), over: make(chan struct{})}
}

// read returns what is there, waiting for at least a byte; nothing is the end of the stream. However long ago the process
// ended and whoever else holds the pipe: it is the end only when the pipe is empty.
func (r *reader) read(ctx context.Context, size uint32) ([]byte, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	data := make([]byte, min(size, maxRead))
	n, err := r.wait(ctx, data)
	switch {
	case n > 0:
		return data[:n], nil
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed),
		errors.Is(err, unix.EIO): // of a terminal that nobody has open any more
		r.told()
		return nil, nil
	}
	return nil, err
}

// wait reads as soon as something is there. os.ErrDeadlineExceeded: nothing is, and the process's end was long ago.
func (r *reader) wait(ctx context.Context, data []byte) (int, error) {
	for {
		r.deadline(nil)
		stop := context.AfterFunc(ctx, func() { r.deadline(ctx.Err()) })
		n, err := r.file.Read(data)
		stop()
		switch {
		case n > 0 || !errors.Is(err, os.ErrDeadlineExceeded):
			return n, err
		case ctx.Err() != nil: // whatever is taken now would get lost
			return 0, ctx.Err()
		case r.ended():
			return pipe.Take(r.file, data)
		}
		// the deadline was that of a call before this one, which gave up just as it came to its end
	}
}

// write writes to a process, and gives up when the caller has gone. What ended an earlier call does not end this one.
func write(ctx context.Context, file *os.File, data []byte) (written int, err error) {
	for {
		file.SetWriteDeadline(time.Time{})
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			file.SetWriteDeadline(time.Unix(1, 0))
			close(ended)
		})
		var n int
		n, err = file.Write(data[written:])
		if !stop() {
			<-ended // or it would end the next call
		}
		written += n
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
		if ctx.Err() != nil {
			return written, ctx.Err()
		}
	}
}

// deadline makes a read end: now if the caller has gone, else when the process's end says so.
func (r *reader) deadline(gone error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gone != nil {
		r.file.SetReadDeadline(time.Unix(1, 0))
	} else {
		r.file.SetReadDeadline(r.limit)
	}
}

// told takes note that the end was told. Calls take turns.
func (r *reader) told() {
	select {
	case <-r.over:
	default:
		close(r.over)
	}
}

func (r *reader) processEnded() {
	r.mu.Lock()
	r.limit = time.Now().Add(drain)
	r.file.SetReadDeadline(r.limit)
	r.mu.Unlock()
}

func (r *reader) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.limit.IsZero() && time.Now().After(r.limit)
}

// streams are the agent's ends of a process's standard streams.
type streams struct {
	stdin          *os.File
	stdout, stderr *reader
	terminal       *os.File // stdout's, where the streams are a terminal
}

// newStreams returns the agent's ends, and the process's in the order of their descriptors. size is that of the pipes in
// bytes, 0 the kernel's default.
func newStreams(size int) (*streams, []*os.File, error) {
	var pipes [3][2]*os.File
	var errs []error
	for i := range pipes {
		var err error
		pipes[i], err = streamPipe(i > 0, size)
		errs = append(errs, err)
	}
	ours := &streams{stdin: pipes[0][1], stdout: newReader(pipes[1][0]), stderr: newReader(pipes[2][0])}
	theirs := []*os.File{pipes[0][0], pipes[1][1], pipes[2][1]}
	err := errors.Join(errs...)
	if err != nil {
		ours.close()
		shim.CloseAll(theirs)
	}
	return ours, theirs, err
}

// streamPipe returns a pipe of which our end does not block a thread; output tells which end is ours.
func streamPipe(output bool, size int) ([2]*os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return [2]*os.File{}, err
	}
	our := 1
	if output {
		our = 0
	}
	err := unix.SetNonblock(fds[our], true)
	if size > 0 {
		_, sizeErr := unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, size)
		err = errors.Join(err, sizeErr)
	}
	return [2]*os.File{os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")}, err
}

func (s *streams) close() {
	for _, file := range []*os.File{s.stdin, s.stdout.file, s.stderr.file} {
		if file != nil {
			file.Close()
		}
	}
}
