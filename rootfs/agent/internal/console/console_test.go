package console

import (
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/reaper"
)

// pair returns the agent's end of a connection and the caller's.
func pair(t *testing.T) (net.Conn, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return conns[0], conns[1].(*net.UnixConn)
}

func TestWhatIsTypedBeforeTheEndIsStillDone(t *testing.T) {
	for _, typed := range []string{"sleep 0.3; echo in $((6*7)); exit\n", "sleep 0.3\necho in $((6*7))\n"} {
		ours, theirs := pair(t)
		done := make(chan error, 1)
		go func() {
			done <- converse(ours, reaper.New(false))
			ours.Close()
		}()
		io.WriteString(theirs, typed)
		theirs.CloseWrite()
		theirs.SetReadDeadline(time.Now().Add(20 * time.Second))
		answer, err := io.ReadAll(theirs)
		if err != nil || !strings.Contains(string(answer), "in 42") {
			t.Errorf("%q was answered %q, %v", typed, answer, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		theirs.Close()
	}
}
