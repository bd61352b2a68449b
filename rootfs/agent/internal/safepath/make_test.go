package safepath

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"guestforge.dev/agent/internal/safepath/pathtest"
)

// links makes symbolic links in a new root, in pairs of name and target.
func links(t *testing.T, resolve uint64, pairs ...string) (*Root, string) {
	t.Helper()
	base := filepath.Join(t.TempDir(), "base")
	for i := 0; i < len(pairs); i += 2 {
		name := filepath.Join(base, pairs[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(pairs[i+1], name); err != nil {
			t.Fatal(err)
		}
	}
	return open(t, base, resolve), base
}

func same(t *testing.T, file *os.File, err error, path string) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	defer file.Close()
	got, _ := file.Stat()
	if want, err := os.Lstat(path); err != nil || !os.SameFile(got, want) {
		t.Errorf("%s is not what was made: %v", path, err)
	}
}

func TestWhatALinkLeadsToIsMadeBelowTheRoot(t *testing.T) {
	for path, want := range map[string]string{
		"etc/x": "nowhere/dir", "etc/x/y/z": "nowhere/dir/y/z", "etc/beside/y": "etc/new/y", "chain/y": "nowhere/dir/sub/y",
		"up/y": "y", "etc/back/y": "var/y", "a/../etc/x": "nowhere/dir",
	} {
		pairs := []string{
			"etc/x", "/nowhere/dir", "etc/beside", "./new/", "chain", "etc/x/sub", "up", "../../..//.", "etc/back", "../../var",
		}
		root, base := links(t, Inside, pairs...)
		file, err := root.Mkdir(path, 0o755)
		same(t, file, err, filepath.Join(base, want))
		root, base = links(t, Inside, pairs...)
		file, err = root.File(path+"/file", 0o644)
		same(t, file, err, filepath.Join(base, want, "file"))
	}
	if _, err := os.Lstat("/nowhere"); err == nil {
		t.Error("a link was followed out")
	}
}

func TestAFileIsMadeWhereLinksLead(t *testing.T) {
	pairs := []string{"etc/localtime", "/usr/zone/utc", "etc/beside", "new/file", "etc/chain", "beside", "var/run", "/run"}
	for path, want := range map[string]string{
		"/etc/localtime": "usr/zone/utc", "etc/beside": "etc/new/file", "etc/chain": "etc/new/file", "var/run/lock": "run/lock",
		"plain/file": "plain/file",
	} {
		root, base := links(t, Inside, pairs...)
		for range 2 { // the second time it is there
			file, err := root.File(path, 0o644)
			same(t, file, err, filepath.Join(base, want))
		}
	}
}

func TestLinksInACircleAreAnError(t *testing.T) {
	root, _ := links(t, Inside, "a", "b/x", "b", "a/x", "self", "self", "deep", "deep/deep")
	for _, path := range []string{"a", "b/y", "self", "deep"} {
		if _, err := root.Mkdir(path, 0o755); err == nil {
			t.Errorf("made directory %s", path)
		}
		if _, err := root.File(path, 0o644); err == nil {
			t.Errorf("made file %s", path)
		}
	}
	if _, err := root.File("new/", 0o644); err == nil {
		t.Error("made a file of a directory's path")
	}
}

func TestManyLinksAreAnError(t *testing.T) {
	var pairs []string
	for i := range maxLinks + 10 {
		pairs = append(pairs, fmt.Sprint(i), fmt.Sprint(i+1))
	}
	root, base := links(t, Inside, pairs...)
	if _, err := root.Mkdir("0", 0o755); err == nil {
		t.Error("made a directory")
	}
	file, err := root.Mkdir(fmt.Sprint(maxLinks), 0o755)
	same(t, file, err, filepath.Join(base, fmt.Sprint(maxLinks+10)))
}

func TestStrictMakesNothingWhereALinkLeads(t *testing.T) {
	root, base := links(t, Strict, "etc/x", "/nowhere/dir", "etc/y", "new")
	for _, path := range []string{"etc/x", "etc/x/z", "etc/y", "etc/y/z"} {
		if _, err := root.Mkdir(path, 0o755); err == nil {
			t.Errorf("made directory %s", path)
		}
		if _, err := root.File(path, 0o644); err == nil {
			t.Errorf("made file %s", path)
		}
	}
	if entries, _ := os.ReadDir(filepath.Join(base, "etc")); len(entries) != 2 {
		t.Errorf("%v", entries)
	}
}

// A link that somebody swaps meanwhile, for one that leads elsewhere or for a directory, leads nowhere out of the root.
func TestALinkThatIsSwappedLeadsNowhereOut(t *testing.T) {
	root, base := links(t, Inside, "one", "/made/one", "two", "../../../../../../tmp/guestforge-escape")
	stop := pathtest.Exchanging(base+"/one", base+"/two")
	for i := range 300 {
		if made, err := root.Mkdir(fmt.Sprint("one/d", i), 0o755); err == nil {
			made.Close()
		}
		if made, err := root.File(fmt.Sprint("two/f", i), 0o644); err == nil {
			made.Close()
		}
		os.RemoveAll(base + "/made")
		os.RemoveAll(base + "/tmp")
	}
	stop()
	if _, err := os.Lstat("/tmp/guestforge-escape"); err == nil {
		t.Error("something was made out of the root")
	}
}
