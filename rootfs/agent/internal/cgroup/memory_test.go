package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
)

func TestHugePagesTakeNoMemoryThatIsInUse(t *testing.T) {
	path := t.TempDir()
	for name, text := range map[string]string{
		"memory.max": "1000\n", "memory.current": "700\n",
		"memory.stat": "anon 400\nfile 300\ninactive_file 200\nactive_file 50\nunevictable 0\n",
	} {
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	limit := func() string {
		text, err := os.ReadFile(filepath.Join(path, "memory.max"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	err := shrink(path, 551) // 700 are in use, of which 250 are the content of files
	if own := (*fault.Error)(nil); !errors.As(err, &own) || own.Code != codes.ResourceExhausted || limit() != "1000" {
		t.Errorf("%v, and the limit is %s", err, limit())
	}
	if err := shrink(path, 550); err != nil || limit() != "450" {
		t.Errorf("%v, and the limit is %s", err, limit())
	}
	if err := shrink(path, 1); err == nil {
		t.Error("more than there is was taken")
	}
}
