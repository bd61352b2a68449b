package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
)

// A storage may be mounted where the sandbox's resolv.conf is to be, with whatever in it.
func TestNameServersAreWrittenThroughNoLink(t *testing.T) {
	for what, prepare := range map[string]func(base, outside string) error{
		"a link to a file": func(base, outside string) error {
			return errors.Join(os.Mkdir(base+"/sandbox", 0o755), os.Symlink(outside+"/secret", base+"/sandbox/resolv.conf"))
		},
		"a link to what is not there": func(base, outside string) error {
			return errors.Join(os.Mkdir(base+"/sandbox", 0o755), os.Symlink(outside+"/new", base+"/sandbox/resolv.conf"))
		},
		"a link to a directory": func(base, outside string) error { return os.Symlink(outside, base+"/sandbox") },
		"a pipe": func(base, _ string) error {
			return errors.Join(os.Mkdir(base+"/sandbox", 0o755), unix.Mkfifo(base+"/sandbox/resolv.conf", 0o600))
		},
		"a directory": func(base, _ string) error { return os.MkdirAll(base+"/sandbox/resolv.conf", 0o755) },
	} {
		base, outside := t.TempDir(), t.TempDir()
		secret := filepath.Join(outside, "secret")
		if err := errors.Join(os.WriteFile(secret, []byte("the guest's"), 0o600), prepare(base, outside)); err != nil {
			t.Fatal(err)
		}
		file, err := (&Sandbox{Base: base}).resolverFile("nameserver 10.0.0.1\n")
		if err == nil {
			file.Close()
			t.Errorf("%s was taken", what)
		}
		if text, _ := os.ReadFile(secret); string(text) != "the guest's" {
			t.Errorf("%s: a file of the guest's is %q", what, text)
		}
		if entries, _ := os.ReadDir(outside); len(entries) != 1 {
			t.Errorf("%s: something was made: %v", what, entries)
		}
	}
}

func TestNameServersAreInTheSandboxsFile(t *testing.T) {
	base := t.TempDir()
	for _, text := range []string{"nameserver 10.0.0.1\n", "x\n"} {
		file, err := (&Sandbox{Base: base}).resolverFile(text)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		if got, err := os.ReadFile(base + "/sandbox/resolv.conf"); string(got) != text || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Kata's runtime-rs names a directory of hooks whether there is one or not.
func TestHooksOfTheGuestAreRefusedWhereThereAreAny(t *testing.T) {
	directory := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(directory+"/none/prestart/directory", 0o755),
		os.WriteFile(directory+"/none/prestart/README", []byte("not to be run"), 0o644),
		os.Symlink("/bin/sh", directory+"/none/prestart/link"),
		os.WriteFile(directory+"/none/poststop", nil, 0o755),
		os.WriteFile(directory+"/none/program", nil, 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"", "/opt/kata/no-hooks-here", directory + "/none", directory + "/none/poststop"} {
		if err := refuseHooks(path); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, kind := range hookKinds {
		some := filepath.Join(directory, "some-"+kind)
		if err := errors.Join(os.MkdirAll(some+"/"+kind, 0o755), os.WriteFile(some+"/"+kind+"/run", nil, 0o755)); err != nil {
			t.Fatal(err)
		}
		var own *fault.Error
		err := refuseHooks(some)
		if !errors.As(err, &own) || own.Code != codes.Unimplemented || !strings.Contains(err.Error(), kind+"/run") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
