package log

import (
	"bufio"
	"bytes"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"testing"

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
	reader := stream.subscribe()
	for range queueLines + 1 {
		stream.Write([]byte("line\n"))
	}
	if len(stream.readers) != 0 {
		t.Error("it still gets lines")
	}
	for range reader {
	}
}
