package log

import (
	"bufio"
	"bytes"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

func TestLinesHaveTheUptimeFirst(t *testing.T) {
	var out bytes.Buffer
	SetOutput(&out)
	slog.Info("agent ready", "address", "x y")
	if !regexp.MustCompile(`^uptime=\d+\.\d{6} level=INFO msg="agent ready" address="x y"\n$`).MatchString(out.String()) {
		t.Errorf("%q", out.String())
	}
}

func TestTheLibrarysLinesAreOurs(t *testing.T) {
	var out bytes.Buffer
	SetOutput(&out)
	logrus.WithError(net.ErrClosed).Error("went wrong")
	if got := out.String(); !strings.Contains(got, `level=WARN msg="went wrong" from=ttrpc error=`) || strings.Count(got, "\n") != 1 {
		t.Errorf("%q", got)
	}
}

func TestLevelsAreKatas(t *testing.T) {
	for _, name := range []string{"fatal", "panic", "critical", "error", "warn", "info", "debug", "trace"} {
		if _, err := ParseLevel(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := ParseLevel("INFO"); err == nil {
		t.Error("INFO is no name")
	}
}

func TestAStreamBeginsWithThePast(t *testing.T) {
	stream := NewStream()
	stream.Write([]byte(strings.Repeat("x", backlogBytes-5) + "\n"))
	stream.Write([]byte("before\n"))
	ours, theirs := net.Pipe()
	defer ours.Close()
	go stream.feed(theirs)
	lines := bufio.NewReader(ours)
	for _, want := range []string{"before\n", "after\n"} {
		if got, err := lines.ReadString('\n'); got != want || err != nil {
			t.Fatalf("%.20q, %v", got, err)
		}
		stream.Write([]byte("after\n"))
	}
}

func TestASlowReaderIsCutOff(t *testing.T) {
	stream := NewStream()
	ours, theirs := net.Pipe()
	defer ours.Close()
	reader := stream.subscribe(theirs)
	for range queueLines + 1 {
		stream.Write([]byte("line\n"))
	}
	if len(stream.readers) != 0 {
		t.Error("it still gets lines")
	}
	for range reader.lines {
	}
}

// serve returns a connection to a stream.
func serve(t *testing.T, stream *Stream) *net.UnixConn {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go stream.Serve(listener)
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); conn.Close() })
	return conn.(*net.UnixConn)
}

// One that says no more, as a program at the end of its input, still reads: what came before and what comes after.
func TestAReaderThatSaysNoMoreStillReads(t *testing.T) {
	stream := NewStream()
	for range 100 {
		stream.Write([]byte("before\n"))
	}
	conn := serve(t, stream)
	conn.CloseWrite()
	lines := bufio.NewReader(conn)
	for range 100 {
		if got, err := lines.ReadString('\n'); got != "before\n" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	stream.Write([]byte("after\n"))
	if got, err := lines.ReadString('\n'); got != "after\n" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}

// A reader may rest as long as it likes while its queue has room.
func TestAReaderThatRestsLosesNothing(t *testing.T) {
	stream := NewStream()
	conn := serve(t, stream)
	conn.SetReadBuffer(4096)
	line := strings.Repeat("x", 2047) + "\n"
	lines := bufio.NewReader(conn)
	stream.Write([]byte("first\n"))
	if got, err := lines.ReadString('\n'); got != "first\n" || err != nil { // it is subscribed
		t.Fatalf("%q, %v", got, err)
	}
	for range queueLines { // more than the socket takes
		stream.Write([]byte(line))
	}
	time.Sleep(6 * time.Second)
	for i := range queueLines {
		if got, err := lines.ReadString('\n'); got != line || err != nil {
			t.Fatalf("%d: %d bytes, %v", i, len(got), err)
		}
	}
}

func TestAReaderThatIsGoneIsForgotten(t *testing.T) {
	stream := NewStream()
	conn := serve(t, stream)
	stream.Write([]byte("line\n"))
	bufio.NewReader(conn).ReadString('\n')
	conn.Close()
	for range 100 {
		stream.mu.Lock()
		left := len(stream.readers)
		stream.mu.Unlock()
		if left == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("it is still a reader")
}
