package peer

import (
	"net"
	"path/filepath"
	"testing"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (ours net.Conn, theirs *net.UnixConn) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if ours, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); conn.Close() })
	return ours, conn.(*net.UnixConn)
}

func TestOneThatSaysNoMoreIsNotGone(t *testing.T) {
	ours, theirs := pair(t)
	if Gone(ours) {
		t.Error("an open connection is taken for a closed one")
	}
	theirs.CloseWrite()
	if Gone(ours) {
		t.Error("one that still reads is taken for a closed one")
	}
}

func TestAConnectionThatIsClosedIsGone(t *testing.T) {
	for i := range 2 {
		ours, theirs := pair(t)
		[]net.Conn{ours, theirs}[i].Close()
		if !Gone(ours) {
			t.Error("a closed connection is taken for an open one")
		}
	}
}
