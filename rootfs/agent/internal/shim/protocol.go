// Package shim is the agent's own program as the first program of a container's process.
//
// The agent starts itself anew, in new namespaces, under one of the names below. The shim puts the process into the
// shape that the OCI spec asks for, says READY, waits for its release and becomes the container's program by execve(2).
// It needs a process of its own: namespaces, root directory and privileges are a thread's, and Go moves goroutines
// between threads.
package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/pipe"
)

// The names (argv[0]) that make a shim of the agent: for a container's first process, for one more in it, and for the
// helper that forks that one.
const (
	InitName  = "guestforge-container"
	ExecName  = "guestforge-exec"
	EnterName = "guestforge-enter"

	withCgroup = "cgroup" // what a helper is told last where it gets one
)

// What a shim finds open besides its standard streams, of Spaces what it was given; a helper passes on what it gets, but for
// its own pipe.
const (
	specFD    = 3 // the spec, serialised, to its end of file
	statusFD  = 4 // READY, or the text of an error; its end of file after READY is the execve
	releaseFD = 5 // one byte lets the process go on
	pidFD     = 6
	ipcFD     = 7
	utsFD     = 8
	firstFree = 9
	reportFD  = 9  // of a helper: the id of what it has forked, or the text of an error
	cgroupFD  = 10 // of a helper: the directory of the newcomer's cgroup, if it has one
)

const (
	ready    = 'R'
	maxError = 4096
	entry    = "pid " // what a helper says before the id
)

// ErrNeverReady is that a shim ended, or was silent for too long, before it was ready.
var ErrNeverReady = errors.New("the process did not become ready")

// Pipes are the agent's ends of what connects it to a shim.
type Pipes struct{ spec, status, release *os.File }

// NewPipes returns the agent's ends, and those of the shim in the order of their descriptors from 3 on.
func NewPipes() (*Pipes, []*os.File, error) {
	specR, specW, err1 := newPipe(0)
	statusR, statusW, err2 := newPipe(unix.O_NONBLOCK)
	releaseR, releaseW, err3 := newPipe(0)
	theirs := []*os.File{specR, statusW, releaseR}
	ours := &Pipes{specW, statusR, releaseW}
	if err := errors.Join(err1, err2, err3); err != nil {
		CloseAll(append(theirs, specW, statusR, releaseW))
		return nil, nil, err
	}
	return ours, theirs, nil
}

// newPipe returns the two ends; those that the shim gets must block, as a program expects.
func newPipe(readerFlags int) (*os.File, *os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	if readerFlags != 0 {
		if err := unix.SetNonblock(fds[0], true); err != nil {
			return nil, nil, err
		}
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// CloseAll closes files; nil ones are left out.
func CloseAll(files []*os.File) {
	for _, file := range files {
		if file != nil {
			file.Close()
		}
	}
}

// Close lets go of the shim; one that has not been released ends.
func (p *Pipes) Close() { CloseAll([]*os.File{p.spec, p.status, p.release}) }

// Send gives the shim its spec and waits until it is ready.
func (p *Pipes) Send(spec *api.Spec, limit time.Duration) error {
	data, err := proto.Marshal(spec)
	if err != nil {
		return err
	}
	go func() { // a spec may be larger than a pipe, and the shim may never read it
		p.spec.Write(data)
		p.spec.Close()
	}()
	p.status.SetReadDeadline(time.Now().Add(limit))
	said := make([]byte, 1)
	if _, err := (pipe.Patient{File: p.status}).Read(said); err != nil {
		return fmt.Errorf("%w: %w", ErrNeverReady, err)
	}
	if said[0] != ready {
		return p.complaint(said)
	}
	return nil
}

// Release lets the process go on, and returns once the program runs, or with the error for which it does not.
func (p *Pipes) Release(limit time.Duration) error {
	p.status.SetReadDeadline(time.Now().Add(limit))
	if _, err := p.release.Write([]byte{ready}); err != nil {
		return fmt.Errorf("release of the process: %w", err)
	}
	return p.complaint(nil)
}

// complaint reads what the shim says to its end; nothing is success.
func (p *Pipes) complaint(begun []byte) error {
	rest, err := io.ReadAll(io.LimitReader(pipe.Patient{File: p.status}, maxError))
	if text := append(begun, rest...); len(text) > 0 { // the reason, though the shim may be late with its end
		return parseComplaint(string(text))
	}
	if err != nil {
		return fmt.Errorf("the process's start: %w", err)
	}
	return nil
}

// complain says an error: its number, or 0, and its words.
func complain(status io.Writer, err error) {
	var number unix.Errno
	errors.As(err, &number)
	fmt.Fprintf(status, "%d %.4000s", int(number), err)
}

func parseComplaint(text string) error {
	number, words, _ := strings.Cut(text, " ")
	errno, err := strconv.ParseUint(number, 10, 12)
	if err != nil || errno == 0 {
		return fmt.Errorf("process: %s", text)
	}
	return &startError{unix.Errno(errno), words}
}

// startError is an error that happened in a shim.
type startError struct {
	number unix.Errno
	words  string
}

func (e *startError) Error() string { return "process: " + e.words }
func (e *startError) Unwrap() error { return e.number }
