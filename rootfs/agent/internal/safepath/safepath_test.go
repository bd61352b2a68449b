package safepath

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/safepath/pathtest"
)

func TestIDs(t *testing.T) {
	for _, id := range []string{"a", "0", "A-b_c.d", strings.Repeat("x", maxID)} {
		if err := CheckID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "-a", "_a", "a/b", "a b", "a\x00", "ä", "a\n", strings.Repeat("x", maxID+1)} {
		if CheckID(id) == nil {
			t.Errorf("%q was taken", id)
		}
	}
}

func TestBelow(t *testing.T) {
	for path, want := range map[string]string{"/b": ".", "/b/": ".", "/b/c": "c", "/b/c/": "c", "/b/c/d": "c/d", "/b/..c": "..c"} {
		if got, err := Below("/b", path); got != want || err != nil {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "/", "b", "/bc", "/b/../c", "/b/./c", "/b//c", "/b/c//", "/a/b", "/b/\x00", "/b/" + strings.Repeat("x", maxPath)} {
		if got, err := Below("/b", path); err == nil {
			t.Errorf("%.40q: %q", path, got)
		}
	}
}

// tree has a directory and links that lead out of it.
func tree(t *testing.T) string {
	base := filepath.Join(t.TempDir(), "base")
	for _, err := range []error{
		os.MkdirAll(base+"/in/side", 0o755), os.Symlink("/", base+"/root"), os.Symlink("../..", base+"/in/up"),
		os.Symlink("in", base+"/link"), os.WriteFile(base+"/file", nil, 0o600), os.Symlink("/nowhere", base+"/dangling"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func open(t *testing.T, base string, resolve uint64) *Root {
	root, err := Open(base, resolve)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func TestStrictTakesNoLink(t *testing.T) {
	root := open(t, tree(t), Strict)
	for _, path := range []string{"root/etc", "link/side", "in/up", "..", "in/../.."} {
		if file, err := root.Open(path, unix.O_PATH, 0); err == nil {
			t.Errorf("%s: %s", path, file.Name())
		}
		if _, err := root.Mkdir(path+"/new", 0o755); err == nil {
			t.Errorf("made %s/new", path)
		}
	}
	if _, err := root.Open("in/side", unix.O_PATH, 0); err != nil {
		t.Error(err)
	}
}

// A Strict root is where its path says: no link leads to it, and none to where it is made.
func TestNoLinkLeadsToAStrictRoot(t *testing.T) {
	base := tree(t)
	for _, path := range []string{"link", "link/side", "root", "dangling"} {
		if root, err := Open(base+"/"+path, Strict); err == nil {
			t.Errorf("opened %s as %s", path, root.dir.Name())
		}
		if file, err := OpenBelow(base+"/"+path, ".", unix.O_PATH); err == nil {
			t.Errorf("opened %s as %s", path, file.Name())
		}
		if root, err := Make(base+"/"+path+"/new", 0o755); err == nil {
			t.Errorf("made %s", root.dir.Name())
		}
	}
	if entries, _ := os.ReadDir(base + "/in/side"); len(entries) != 0 {
		t.Errorf("made %v", entries)
	}
	for range 2 { // the second time it is there
		root, err := Make(base+"/new/deep", 0o711)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if info, err := os.Stat(base + "/new/deep"); err != nil || info.Mode().Perm() != 0o711 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
}

func TestInsideLinksStayInside(t *testing.T) {
	base := tree(t)
	root := open(t, base, Inside)
	for path, want := range map[string]string{"root/in/side": "in/side", "link/side": "in/side", "in/up/in": "in", "../../in": "in"} {
		file, err := root.Open(path, unix.O_PATH, 0)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got, _ := file.Stat()
		if expected, _ := os.Stat(filepath.Join(base, want)); !os.SameFile(got, expected) {
			t.Errorf("%s is not %s", path, want)
		}
	}
	if _, err := root.Mkdir("root/made/deep", 0o755); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(base + "/made/deep"); err != nil {
		t.Error(err)
	}
	if _, err := root.Mkdir("file/x", 0o755); err == nil {
		t.Error("made a directory in a file")
	}
	if _, err := os.Lstat("/nowhere"); err == nil {
		t.Error("a dangling link was followed out")
	}
}

// failing opens a path while openat2 fails so many times before it opens anything, and tells how often it was asked.
func failing(root *Root, path string, errno unix.Errno, times int) (file *os.File, err error, asked int) {
	real := openat2
	defer func() { openat2 = real }()
	openat2 = func(fd int, path string, how *unix.OpenHow) (int, error) {
		if asked++; asked <= times {
			return -1, errno
		}
		return real(fd, path, how)
	}
	file, err = root.Open(path, unix.O_PATH, 0)
	return file, err, asked
}

func TestAPathThatChangesMeanwhileIsOpenedAgainButNotForEver(t *testing.T) {
	root := open(t, tree(t), Inside)
	for _, errno := range []unix.Errno{unix.EAGAIN, unix.EINTR} {
		file, err, asked := failing(root, "in/side", errno, maxTries-1)
		if err != nil || asked != maxTries {
			t.Fatalf("%v: %d tries, %v", errno, asked, err)
		}
		file.Close()
		_, err, asked = failing(root, "in/side", errno, maxTries+1)
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), "in/side: something on the way was changed") || asked != maxTries {
			t.Errorf("%v: %d tries, %v", errno, asked, err)
		}
	}
}

// The kernel itself, while somebody renames without end and a path has ".." so often that there is always one in between.
func TestAPathAmongRenamesWithoutEndIsAnErrorAndNoHang(t *testing.T) {
	base := tree(t)
	root := open(t, base, Inside)
	defer pathtest.Exchanging(base+"/file", base+"/dangling")()
	long := strings.Repeat("in/../", 600) + "in"
	for begun := time.Now(); time.Since(begun) < 30*time.Second; {
		file, err := root.Open(long, unix.O_PATH, 0)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	t.Error("every call found its way: this test shows nothing")
}
