package copyfile

import (
	"os"
	"path/filepath"
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
