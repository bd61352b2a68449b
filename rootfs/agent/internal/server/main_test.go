package server

import (
	"flag"
	"fmt"
	"io"
	"os"
	"testing"

	"guestforge.dev/agent/internal/log"
	"guestforge.dev/agent/internal/shim"
)

// The test program is the agent: it is started as a shim too. As root it runs confined.
func TestMain(m *testing.M) {
	// the race detector has a program wait for a second before it ends: one that has others' pipes open must not
	shim.Environment = append(shim.Environment, "GORACE=atexit_sleep_ms=0")
	if os.Getuid() == 0 {
		confined, err := inside()
		if err == nil && !confined {
			os.Exit(again())
		}
		if err == nil && os.Getpid() == 1 { // another one is a worker of a fuzz target, which lives in what is there
			err = confine()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "namespaces for the tests:", err)
			os.Exit(1)
		}
	}
	if flag.Parse(); testing.Verbose() {
		log.SetOutput(os.Stderr)
	} else {
		log.SetOutput(io.Discard)
	}
	os.Exit(m.Run())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root: namespaces and mounts")
	}
}
