package mirror

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/safepath"
)

// fixture is a source, and a mirror of it.
type fixture struct {
	*testing.T
	base, source, copy string
	mirror             *Mirror
}

func newFixture(t *testing.T) *fixture {
	base, into := t.TempDir(), t.TempDir()
	root, err := safepath.Open(into, safepath.Strict)
	f := &fixture{T: t, base: base, source: base + "/config", copy: into + "/.copies/config"}
	f.must(err)
	t.Cleanup(func() { root.Close() })
	f.must(Prepare(root))
	f.mirror = New(Source{base, "config"}, root, "config")
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) write(relative, text string) {
	f.Helper()
	path := filepath.Join(f.source, relative)
	f.must(os.MkdirAll(filepath.Dir(path), 0o755))
	f.must(os.WriteFile(path, []byte(text), 0o640))
}

// publish changes a volume as Kubernetes does (its AtomicWriter): a new directory, and one rename that leads to it.
func (f *fixture) publish(version string, files map[string]string) {
	f.Helper()
	old, _ := os.Readlink(f.source + "/..data")
	for name, text := range files {
		f.write("..v"+version+"/"+name, text)
	}
	f.must(os.Symlink("..v"+version, f.source+"/..data_tmp"))
	f.must(os.Rename(f.source+"/..data_tmp", f.source+"/..data"))
	for name := range files {
		if err := os.Symlink("..data/"+name, filepath.Join(f.source, name)); err != nil && !os.IsExist(err) {
			f.Fatal(err)
		}
	}
	if old != "" {
		f.must(os.RemoveAll(filepath.Join(f.source, old)))
	}
}

// listing returns what is below a directory, with what a link says and a file holds.
func (f *fixture) listing(directory string) string {
	f.Helper()
	var lines strings.Builder
	f.must(filepath.WalkDir(directory, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		var what string
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			what, err = os.Readlink(path)
		case info.Mode().IsRegular():
			var text []byte
			text, err = os.ReadFile(path)
			what = string(text)
		}
		name, _ := filepath.Rel(directory, path)
		fmt.Fprintf(&lines, "%s %v %q\n", name, info.Mode(), what)
		return err
	}))
	return lines.String()
}

func (f *fixture) follows() {
	f.Helper()
	f.must(f.mirror.Update())
	if got, want := f.listing(f.copy), f.listing(f.source); got != want {
		f.Errorf("the copy is\n%snot\n%s", got, want)
	}
}

func TestACopyFollowsAVolumeOfKubernetes(t *testing.T) {
	f := newFixture(t)
	f.publish("1", map[string]string{"a": "one", "b": "same"})
	f.follows()
	f.publish("2", map[string]string{"a": "two", "b": "same", "c": "new"})
	f.follows()
	f.must(os.Remove(f.source + "/c"))
	f.publish("3", map[string]string{"a": "three"})
	f.follows()
	if text, err := os.ReadFile(f.copy + "/a"); string(text) != "three" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

// uniform tells whether a text is one version's, as `version` writes it.
func uniform(text []byte) bool {
	return len(text) == 4000 && strings.Count(string(text), string(text[:4])) >= 1000
}

func version(number int) string { return strings.Repeat(fmt.Sprintf("%04d", number), 1000) }

// until repeats a check beside something else, and returns what came of it.
func until(end <-chan struct{}, check func() error) <-chan error {
	result := make(chan error, 1)
	go func() {
		for {
			select {
			case <-end:
				result <- nil
				return
			default:
				if err := check(); err != nil {
					result <- err
					return
				}
			}
		}
	}()
	return result
}

// Whoever reads the copy finds a whole state of it, at every moment.
func TestAReaderNeverSeesHalfAChange(t *testing.T) {
	f := newFixture(t)
	f.publish("0", map[string]string{"a": version(0)})
	f.write("plain", version(0))
	f.must(f.mirror.Update())
	end := make(chan struct{})
	result := until(end, func() error {
		if _, err := os.Readlink(f.copy + "/..data"); err != nil {
			return err
		}
		text, err := os.ReadFile(f.copy + "/plain")
		if err != nil || !uniform(text) {
			return fmt.Errorf("%d bytes, %v", len(text), err)
		}
		return nil
	})
	for number := range 50 {
		f.publish(fmt.Sprint(number+1), map[string]string{"a": version(number + 1)})
		f.write("plain", version(number+1))
		f.must(f.mirror.Update())
	}
	close(end)
	f.must(<-result)
}

// A source that is changed while it is read is read again.
func TestACopyIsOfOneState(t *testing.T) {
	f := newFixture(t)
	f.publish("0", map[string]string{"a": version(0)})
	f.must(f.mirror.Update())
	end, number := make(chan struct{}), 0
	result := until(end, func() error {
		number++
		f.publish(fmt.Sprint(number), map[string]string{"a": version(number)})
		time.Sleep(3 * time.Millisecond)
		return nil
	})
	settled := 0
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		if f.mirror.Update() != nil {
			continue
		}
		settled++
		if text, err := os.ReadFile(f.copy + "/a"); err != nil || !uniform(text) {
			t.Errorf("%d bytes, %v", len(text), err)
		}
	}
	close(end)
	if f.must(<-result); settled == 0 {
		t.Error("the source was never the same twice")
	}
}

func TestASourceThatHasChangedIsReadOnceMoreAfterAPause(t *testing.T) {
	f := newFixture(t)
	f.write("a", "one")
	pauses := 0
	found, err := f.mirror.source.settled(tree{}, func() { pauses++ })
	if f.must(err); pauses != 1 || len(found) != 2 {
		t.Errorf("%d pauses, %d entries", pauses, len(found))
	}
	if _, err := f.mirror.source.settled(found, func() { pauses++ }); err != nil || pauses != 1 {
		t.Errorf("%d pauses, though nothing has changed: %v", pauses, err)
	}
}

func TestKindsAndModesAndOwnersFollow(t *testing.T) {
	f := newFixture(t)
	f.write("x/y/z", "deep")
	f.write("swap", "a file")
	f.must(os.Symlink("/etc/passwd", f.source+"/out")) // a link is copied as a link, wherever it leads
	f.follows()
	f.must(os.RemoveAll(f.source + "/x"))
	f.write("x", "now a file")
	f.must(os.Remove(f.source + "/swap"))
	f.write("swap/inner", "now below a directory")
	f.must(os.Chmod(f.source+"/swap", 0o700))
	f.must(os.Remove(f.source + "/out"))
	f.write("out", "now a file")
	f.follows()
	if os.Getuid() == 0 {
		f.must(os.Chown(f.source+"/x", 12, 34))
		f.follows()
		var status unix.Stat_t
		if f.must(unix.Stat(f.copy+"/x", &status)); status.Uid != 12 || status.Gid != 34 {
			t.Errorf("owner %d:%d", status.Uid, status.Gid)
		}
	}
}

func TestAFileIsRewrittenWhereItIs(t *testing.T) {
	f := newFixture(t)
	f.must(os.WriteFile(f.source, []byte("long before"), 0o600))
	f.must(f.mirror.Update())
	before, err := f.mirror.Copy()
	f.must(err)
	defer before.Close()
	f.must(os.WriteFile(f.source+".new", []byte("after"), 0o644))
	f.must(os.Rename(f.source+".new", f.source))
	f.must(f.mirror.Update())
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", before.Fd())) // what a container has
	if string(text) != "after" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	f.must(os.Remove(f.source))
	f.must(os.Mkdir(f.source, 0o755))
	if f.mirror.Update() == nil {
		t.Error("a directory in the place of a file")
	}
}

func TestLimits(t *testing.T) {
	for name, test := range map[string]struct {
		fill func(f *fixture)
		ok   bool
	}{
		"16 files": {func(f *fixture) {
			for i := range 16 {
				f.write(fmt.Sprint(i), "x")
			}
		}, true},
		"17 files": {func(f *fixture) {
			for i := range 17 {
				f.write(fmt.Sprint(i), "x")
			}
		}, false},
		"1 MiB":          {func(f *fixture) { f.write("a", strings.Repeat("x", 1<<20-1)); f.write("b", "x") }, true},
		"more":           {func(f *fixture) { f.write("a", strings.Repeat("x", 1<<20)); f.write("b", "x") }, false},
		"a sparse file":  {func(f *fixture) { f.write("a", ""); f.must(os.Truncate(f.source+"/a", 1<<40)) }, false},
		"a pipe":         {func(f *fixture) { f.write("a", ""); f.must(unix.Mkfifo(f.source+"/pipe", 0o600)) }, false},
		"a deep one":     {func(f *fixture) { f.write(strings.Repeat("d/", 9)+"a", "x") }, false},
		"many links":     {func(f *fixture) { f.links(62) }, true},
		"too many links": {func(f *fixture) { f.links(64) }, false},
	} {
		f := newFixture(t)
		test.fill(f)
		if err := f.mirror.Update(); (err == nil) != test.ok || err != nil && !errors.Is(err, ErrTooMuch) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(f.copy); (err == nil) != test.ok {
			t.Errorf("%s: the copy: %v", name, err)
		}
	}
}

func (f *fixture) links(count int) {
	f.must(os.MkdirAll(f.source, 0o755))
	for i := range count {
		f.must(os.Symlink("x", fmt.Sprintf("%s/%d", f.source, i)))
	}
}

func TestASourceThatGrowsTooLargeLeavesTheCopy(t *testing.T) {
	f := newFixture(t)
	f.write("a", "kept")
	f.follows()
	before := f.listing(f.copy)
	f.write("b", strings.Repeat("x", 1<<20))
	if err := f.mirror.Update(); !errors.Is(err, ErrTooMuch) || f.listing(f.copy) != before {
		t.Errorf("%v, %s", err, f.listing(f.copy))
	}
	f.must(os.Remove(f.source + "/b"))
	f.follows()
	f.must(os.RemoveAll(f.source))
	if err := f.mirror.Update(); err == nil || f.listing(f.copy) != before {
		t.Errorf("%v, %s", err, f.listing(f.copy))
	}
}

func TestALinkInTheWayLeadsNowhere(t *testing.T) {
	f := newFixture(t)
	elsewhere := t.TempDir()
	f.must(os.WriteFile(elsewhere+"/a", []byte("secret"), 0o600))
	f.must(os.Symlink(elsewhere, f.source))
	if err := f.mirror.Update(); err == nil {
		t.Error("a source that is a link")
	}
	f.must(os.Remove(f.source))
	f.write("d/a", "one")
	f.follows()
	f.must(os.RemoveAll(f.copy + "/d")) // a container that may write to its copy
	f.must(os.Symlink(elsewhere, f.copy+"/d"))
	f.write("d/a", "other")
	f.write("d/b", "more")
	if err := f.mirror.Update(); err == nil {
		t.Error("a link in the copy is no error")
	}
	if got := f.listing(elsewhere); strings.Contains(got, "other") || strings.Contains(got, "more") {
		t.Errorf("written to\n%s", got)
	}
}

func TestAMirrorFollowsUntilItIsStopped(t *testing.T) {
	f := newFixture(t)
	f.write("a", "one")
	f.must(f.mirror.Update())
	ended := make(chan struct{})
	go func() { f.mirror.Follow(time.Millisecond); close(ended) }()
	f.write("a", "changed")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if text, _ := os.ReadFile(f.copy + "/a"); string(text) == "changed" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the copy does not follow")
		}
	}
	f.must(f.mirror.Stop())
	<-ended
	f.write("a", "later")
	f.must(f.mirror.Update())
	f.must(f.mirror.Stop())
	if _, err := os.Stat(f.copy); !os.IsNotExist(err) {
		t.Errorf("the copy is still there: %v", err)
	}
}
