package shim

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"guestforge.dev/agent/internal/api"
)

func TestHomeIsWhatPasswdSays(t *testing.T) {
	passwd := filepath.Join(t.TempDir(), "passwd")
	text := "root:x:0:0:root:/root:/bin/sh\nbad:x:7\nrelative:x:8:8::here:/bin/sh\nnul:x:6:6::/a\x00b:/bin/sh\nuser:x:1000:1000::/home/user:\n"
	if err := os.WriteFile(passwd, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{0: "/root", 1000: "/home/user", 6: "/", 7: "/", 8: "/", 9: "/"} {
		if got := home(passwd, uid); got != want {
			t.Errorf("home of %d is %q, not %q", uid, got, want)
		}
	}
	if got := home(passwd+".none", 0); got != "/" {
		t.Error(got)
	}
	fifo := passwd + ".fifo"
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := home(fifo, 0); got != "/" {
		t.Error(got)
	}
	if err := os.WriteFile(passwd, []byte(strings.Repeat("x", maxPasswd+1)+"\nuser:x:5:5::/late:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := home(passwd, 5); got != "/" {
		t.Error(got)
	}
}

func TestHomeOfTheSpecIsKept(t *testing.T) {
	process := &api.Process{Env: []string{"A=b", "HOME="}}
	if got := environment(process); !slices.Equal(got, process.Env) {
		t.Error(got)
	}
	process.Env = []string{"HOMER=x"}
	if got := environment(process); len(got) != 2 || !strings.HasPrefix(got[1], "HOME=/") {
		t.Error(got)
	}
}
