package safepath

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzCheckID(f *testing.F) {
	for _, seed := range []string{"a", "A-b_c.d", "..", "a/..", "a\x00", "-a", "ä"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if CheckID(id) != nil {
			return
		}
		if path.Join("/b", id) != "/b/"+id || path.Dir("/b/"+id) != "/b" || strings.ContainsAny(id, "\x00\n ") {
			t.Errorf("%q is an id, and no name of a directory", id)
		}
	})
}

func FuzzBelow(f *testing.F) {
	for _, seed := range []string{"/b", "/b/", "/b/c/d", "/b/..", "/b/../c", "/bc", "/b//c", "/b/..c", "b/c", "/b/c\x00"} {
		f.Add("/b", seed)
	}
	f.Fuzz(func(t *testing.T, base, name string) {
		if !path.IsAbs(base) || path.Clean(base) != base || base == "/" {
			return
		}
		relative, err := Below(base, name)
		if err == nil && (!filepath.IsLocal(relative) || path.Join(base, relative) != strings.TrimSuffix(name, "/")) {
			t.Errorf("%q below %q is %q", name, base, relative)
		}
	})
}

// FuzzPaths opens and makes what has any path, in a directory with links that lead out and in circles: it lies below the root,
// or it is an error.
func FuzzPaths(f *testing.F) {
	for _, seed := range []string{
		"in/side", "root/etc", "in/up/..", "../../in", "dangling/x", "link/../..", "file/x", "", "/", "a//b/./c", "self", "new/", "\x00",
		"root/dangling/new/file",
	} {
		f.Add(seed, "../x", false)
		f.Add(seed, "/in/./side/..", true)
	}
	f.Fuzz(func(t *testing.T, name, target string, strict bool) {
		base := tree(t)
		os.Symlink("self", base+"/self")
		os.Symlink(target, base+"/any")
		resolve := uint64(Inside)
		if strict {
			resolve = Strict
		}
		root := open(t, base, resolve)
		for _, each := range []string{name, "any/" + name, name + "/any"} {
			file, err := root.Open(each, unix.O_PATH, 0)
			within(t, base, file, err)
			file, err = root.Mkdir(each, 0o755)
			within(t, base, file, err)
			file, err = root.File(each, 0o644)
			within(t, base, file, err)
		}
	})
}

func within(t *testing.T, base string, file *os.File, err error) {
	t.Helper()
	if err != nil {
		return
	}
	defer file.Close()
	where, err := os.Readlink(fmt.Sprint("/proc/self/fd/", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if where != base && !strings.HasPrefix(where, base+"/") {
		t.Errorf("%s is out of %s", where, base)
	}
}
