package conform

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "child" {
		os.Exit(Child(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

// The host's own file system keeps its promises; some need root.
func TestCasesHoldHere(t *testing.T) {
	dir, err := os.MkdirTemp("", "conform-") // the parents of t.TempDir() are closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	Run(Cases(50), dir, func(r Result) {
		if seen[r.Name] {
			t.Errorf("two cases are named %s", r.Name)
		}
		seen[r.Name] = true
		if r.Status == Fail && os.Getuid() == 0 {
			t.Errorf("%s: %s", r.Name, r.Detail)
		}
	})
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestOutcomes(t *testing.T) {
	cases := []Case{
		{"fails", func(string) error { return errors.New("broken") }},
		{"unsupported", func(string) error { return unix.EOPNOTSUPP }},
		{"panics", func(string) error { panic("broken") }},
		{"passes", func(string) error { return nil }},
	}
	expected := map[string]Status{"fails": Fail, "unsupported": Unsupported, "panics": Fail, "passes": Pass}
	Run(cases, t.TempDir(), func(r Result) {
		if r.Status != expected[r.Name] {
			t.Errorf("%s: %s", r.Name, r.Status)
		}
	})
}

func TestWrongErrorsAreFailures(t *testing.T) {
	if wantErrno(nil, unix.EPERM, "") == nil || wantErrno(unix.EACCES, unix.EPERM, "") == nil {
		t.Error("taken for the right one")
	}
	if !isUnsupported(wantErrno(unix.ENOSYS, unix.EPERM, "")) {
		t.Error("what is not supported is no failure")
	}
}
