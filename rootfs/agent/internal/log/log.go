// Package log writes the agent's structured lines: logfmt, each with the guest's uptime in seconds.
//
// The wall clock of a guest that has just booted may be anything, so lines carry CLOCK_MONOTONIC, which counts from the
// start of the kernel and is what the boot figures are made of.
package log

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// The names that agent.log= takes, as Kata's agent has them, most severe first.
var levels = map[string]slog.Level{
	"fatal":    slog.LevelError + 8,
	"panic":    slog.LevelError + 6,
	"critical": slog.LevelError + 4,
	"error":    slog.LevelError,
	"warn":     slog.LevelWarn,
	"info":     slog.LevelInfo,
	"debug":    slog.LevelDebug,
	"trace":    slog.LevelDebug - 4,
}

var current slog.LevelVar

// ParseLevel returns the level of a name that agent.log= takes.
func ParseLevel(name string) (slog.Level, error) {
	level, known := levels[name]
	if !known {
		return 0, fmt.Errorf("no such log level: %q", name)
	}
	return level, nil
}

// SetLevel drops what is less severe from now on.
func SetLevel(level slog.Level) { current.Set(level) }

// SetOutput makes w the place of all lines, those of the ttrpc library included.
func SetOutput(w io.Writer) {
	slog.SetDefault(slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: &current, ReplaceAttr: stamp})))
	logrus.SetOutput(io.Discard)
	logrus.SetFormatter(libraryLine{})
}

// Fatal says on the console why the agent can't go on, and exits. Where the agent is PID 1 that is a kernel panic: a
// guest without an agent is of no use, and a host sees a panic at once.
func Fatal(err error) {
	fmt.Fprintf(os.Stderr, "agent: fatal: %v\n", err)
	os.Exit(1)
}

func stamp(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.String("uptime", Uptime())
	}
	return a
}

// Uptime returns the seconds since the kernel started, with microseconds.
func Uptime() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "unknown"
	}
	return strconv.FormatFloat(float64(now.Nano())/1e9, 'f', 6, 64)
}

// libraryLine makes a line of ours of one that the ttrpc library logs through logrus.
type libraryLine struct{}

func (libraryLine) Format(entry *logrus.Entry) ([]byte, error) {
	level := slog.LevelWarn
	if entry.Level > logrus.WarnLevel {
		level = slog.LevelDebug
	}
	attrs := []any{"from", "ttrpc"}
	if err, ok := entry.Data[logrus.ErrorKey].(error); ok {
		attrs = append(attrs, "error", err)
	}
	slog.Log(entry.Context, level, entry.Message, attrs...)
	return nil, nil
}
