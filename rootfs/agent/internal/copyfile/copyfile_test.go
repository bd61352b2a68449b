package copyfile

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
)

// request copies as who runs the test.
func request(base, name string, mode uint32, data string) *api.CopyFileRequest {
	return &api.CopyFileRequest{
		Path: filepath.Join(base, name), FileSize: int64(len(data)), FileMode: mode, DirMode: 0o700,
		Uid: int32(os.Getuid()), Gid: int32(os.Getgid()), Data: []byte(data),
	}
}

func write(t *testing.T, base string, r *api.CopyFileRequest) {
	t.Helper()
	if err := Write(base, r); err != nil {
		t.Fatal(err)
	}
}

func TestFilesDirectoriesAndLinks(t *testing.T) {
	base := t.TempDir()
	write(t, base, request(base, "a/b/file", unix.S_IFREG|0o4751, "content"))
	write(t, base, request(base, "a/c", unix.S_IFDIR|0o711, ""))
	write(t, base, request(base, "a/link", unix.S_IFLNK|0o777, "b/file"))
	write(t, base, request(base, "a/link", unix.S_IFLNK|0o777, "b/other"))
	write(t, base, request(base, "empty", 0o600, ""))
	for name, want := range map[string]os.FileMode{
		"a": os.ModeDir | 0o700, "a/b/file": os.ModeSetuid | 0o751, "a/c": os.ModeDir | 0o711, "empty": 0o600,
	} {
		if info, err := os.Lstat(filepath.Join(base, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if target, err := os.Readlink(base + "/a/link"); target != "b/other" || err != nil {
		t.Errorf("link: %q, %v", target, err)
	}
}

func TestAFileIsThereOnceItIsWhole(t *testing.T) {
	base := t.TempDir()
	r := request(base, "file", 0o640, "123456")
	r.Data, r.FileSize = []byte("1234"), 6
	write(t, base, r)
	if _, err := os.Stat(r.Path); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
	r.Data, r.Offset = []byte("56"), 4
	write(t, base, r)
	if text, err := os.ReadFile(r.Path); string(text) != "123456" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if left, _ := filepath.Glob(base + "/*.tmp"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAnotherAttemptStartsAnew(t *testing.T) {
	base := t.TempDir()
	r := request(base, "file", 0o640, "long and abandoned")
	r.FileSize = 100
	write(t, base, r)
	write(t, base, request(base, "file", 0o640, "short"))
	if text, _ := os.ReadFile(r.Path); string(text) != "short" {
		t.Errorf("%q", text)
	}
}

func TestNothingLeadsOut(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	outside := filepath.Dir(base)
	write(t, base, request(base, "link", unix.S_IFLNK, outside))
	write(t, base, request(base, "file.tmp", unix.S_IFLNK, outside+"/stolen"))
	for _, path := range []string{
		outside + "/x", base + "/../x", base + "/link/x", base + "/a/../../x", "x", base, base + "/", base + "/" + strings.Repeat("n", 256),
	} {
		r := request(base, "", 0o600, "data")
		r.Path = path
		if Write(base, r) == nil {
			t.Errorf("wrote %.80s", path)
		}
	}
	if Write(base, request(base, "file", 0o600, "data")) == nil {
		t.Error("wrote through a link in place of the unfinished file")
	}
	if names, _ := os.ReadDir(outside); len(names) != 1 {
		t.Errorf("outside: %v", names)
	}
}

// A link that leads to what is not there leads to nothing that is made: neither what comes nor directories on the way.
func TestNothingIsMadeWhereALinkLeads(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	outside := filepath.Dir(base)
	for name, target := range map[string]string{"out": outside + "/nowhere", "in": "nowhere"} {
		write(t, base, request(base, name, unix.S_IFLNK, target))
		for _, below := range []string{"/file", "/directory/file"} {
			if Write(base, request(base, name+below, 0o600, "data")) == nil {
				t.Errorf("wrote %s%s", name, below)
			}
		}
		if Write(base, request(base, name+"/directory", unix.S_IFDIR|0o700, "")) == nil {
			t.Errorf("made a directory behind %s", name)
		}
	}
	write(t, base, request(base, "in", 0o600, "data")) // the link itself makes room
	for _, path := range []string{outside + "/nowhere", base + "/nowhere"} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// The base is below a directory that may be a volume's: no link leads to it either.
func TestNoLinkLeadsToTheBase(t *testing.T) {
	directory := t.TempDir()
	if err := os.Symlink(t.TempDir(), directory+"/shared"); err != nil {
		t.Fatal(err)
	}
	if Write(directory+"/shared/containers", request(directory+"/shared/containers", "file", 0o600, "data")) == nil {
		t.Error("wrote through a link")
	}
}

// filled makes a directory with files, directories and links in it.
func filled(t *testing.T, base, name string) {
	t.Helper()
	for i := range 3 * batch / 2 {
		write(t, base, request(base, fmt.Sprint(name, "/file", i), 0o600, ""))
	}
	write(t, base, request(base, name+"/a/b/c/file", 0o400, "data"))
	write(t, base, request(base, name+"/a/link", unix.S_IFLNK, "/"))
	write(t, base, request(base, name+"/a/empty", unix.S_IFDIR|0o500, ""))
}

func TestADirectoryMakesRoom(t *testing.T) {
	base := t.TempDir()
	filled(t, base, "file")
	filled(t, base, "link")
	r := request(base, "file", 0o640, "123456")
	r.Data, r.FileSize = []byte("1234"), 6
	write(t, base, r)
	if info, err := os.Lstat(r.Path); err != nil || !info.IsDir() {
		t.Errorf("the directory has gone before the file is whole: %v", err)
	}
	r.Data, r.Offset = []byte("56"), 4
	write(t, base, r)
	write(t, base, request(base, "link", unix.S_IFLNK, "file"))
	for _, name := range []string{"file", "link"} {
		if text, err := os.ReadFile(filepath.Join(base, name)); string(text) != "123456" || err != nil {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

func TestADirectoryTakesThePlaceOfAFileAndKeepsWhatItHas(t *testing.T) {
	base := t.TempDir()
	write(t, base, request(base, "file", 0o600, "data"))
	write(t, base, request(base, "link", unix.S_IFLNK, base+"/kept"))
	write(t, base, request(base, "kept/file", 0o600, "data"))
	for _, name := range []string{"file", "link", "kept"} {
		write(t, base, request(base, name, unix.S_IFDIR|0o711, ""))
		if info, err := os.Lstat(filepath.Join(base, name)); err != nil || info.Mode() != os.ModeDir|0o711 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := os.Lstat(base + "/kept/file"); err != nil {
		t.Error(err)
	}
}

func TestWhatIsTooMuchOrTooDeepStays(t *testing.T) {
	base := t.TempDir()
	deep := "deep" + strings.Repeat("/d", maxDepth+3)
	write(t, base, request(base, deep+"/file", 0o600, "data"))
	if err := Write(base, request(base, "deep", 0o600, "data")); err == nil || !strings.Contains(err.Error(), "in more than") {
		t.Errorf("%v", err)
	}
	few := removal{left: 3}
	filled(t, base, "many")
	parent, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	if err := few.tree(int(parent.Fd()), "many", 0); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
}

// needMounts gives the test a mount namespace of its own, on a thread that ends with it.
func needMounts(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsMountedMakesNoRoom(t *testing.T) {
	needMounts(t)
	base := t.TempDir()
	for _, point := range []string{"point", "above/point"} {
		write(t, base, request(base, point, unix.S_IFDIR|0o700, ""))
		write(t, base, request(base, filepath.Join(filepath.Dir(point), "beside"), 0o600, "data"))
		if err := unix.Mount("volume", filepath.Join(base, point), "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(filepath.Join(base, point), unix.MNT_DETACH) })
		write(t, base, request(base, point+"/file", 0o600, "data"))
		top, _, _ := strings.Cut(point, "/")
		if Write(base, request(base, top, 0o600, "data")) == nil {
			t.Errorf("%s has made room", point)
		}
		parent, err := os.Open(base)
		if err != nil {
			t.Fatal(err)
		}
		unseen := removal{left: maxRemoved} // as where it is mounted only then
		if unseen.tree(int(parent.Fd()), top, 0) == nil {
			t.Errorf("%s was removed", top)
		}
		parent.Close()
		if _, err := os.Lstat(filepath.Join(base, point, "file")); err != nil {
			t.Errorf("what a storage holds has gone: %v", err)
		}
	}
}

func TestDirectoriesOnTheWayAreTheOwnersOfWhatComes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("another owner needs root")
	}
	base := t.TempDir()
	write(t, base, request(base, "there", unix.S_IFDIR|0o711, ""))
	r := request(base, "there/made/below/file", 0o600, "data")
	r.Uid, r.Gid, r.DirMode = 12, 34, 0
	write(t, base, r)
	for name, want := range map[string]struct{ uid, gid, mode uint32 }{
		"there": {0, 0, 0o711}, "there/made": {12, 34, 0o750}, "there/made/below": {12, 34, 0o750},
		"there/made/below/file": {12, 34, 0o600},
	} {
		var status unix.Stat_t
		err := unix.Lstat(filepath.Join(base, name), &status)
		if err != nil || status.Uid != want.uid || status.Gid != want.gid || status.Mode&0o7777 != want.mode {
			t.Errorf("%s: %d:%d, mode %o, %v", name, status.Uid, status.Gid, status.Mode, err)
		}
	}
}

func TestPiecesThatDoNotFit(t *testing.T) {
	base := t.TempDir()
	for _, change := range []func(*api.CopyFileRequest){
		func(r *api.CopyFileRequest) { r.FileSize = 3 }, func(r *api.CopyFileRequest) { r.FileSize = -1 },
		func(r *api.CopyFileRequest) { r.Offset = -1 }, func(r *api.CopyFileRequest) { r.Offset = 1 },
		func(r *api.CopyFileRequest) { r.FileSize = maxSize + 1 }, func(r *api.CopyFileRequest) { r.Offset = 1 << 62 },
		func(r *api.CopyFileRequest) { r.FileMode = unix.S_IFBLK }, func(r *api.CopyFileRequest) { r.FileMode = unix.S_IFIFO },
	} {
		r := request(base, "file", 0o600, "data")
		change(r)
		if Write(base, r) == nil {
			t.Errorf("wrote %v", r)
		}
	}
}
