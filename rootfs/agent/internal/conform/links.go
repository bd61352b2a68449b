package conform

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

var linkCases = []Case{
	{"hard-link", func(dir string) error {
		if err := first(write(dir+"/a", "one"), os.Link(dir+"/a", dir+"/b"), write(dir+"/b", "two")); err != nil {
			return err
		}
		a, errA := lstat(dir + "/a")
		b, errB := lstat(dir + "/b")
		return first(errA, errB, want(a.Ino == b.Ino && a.Nlink == 2 && b.Nlink == 2, "inodes %d %d, links %d %d",
			a.Ino, b.Ino, a.Nlink, b.Nlink), wantContent(dir+"/a", "two"),
			unix.Unlink(dir+"/a"), wantContent(dir+"/b", "two"), wantLinks(dir+"/b", 1))
	}},
	{"hard-link-refused", func(dir string) error {
		return first(write(dir+"/a", ""), write(dir+"/b", ""),
			wantErrno(unix.Link(dir+"/a", dir+"/b"), unix.EEXIST, "link over a file"),
			unix.Mkdir(dir+"/d", 0o755), wantErrno(unix.Link(dir+"/d", dir+"/e"), unix.EPERM, "link to a directory"))
	}},
	{"hard-link-to-a-symbolic-one", func(dir string) error {
		if err := first(os.Symlink("nowhere", dir+"/l"), unix.Link(dir+"/l", dir+"/m")); err != nil {
			return err
		}
		target, err := os.Readlink(dir + "/m")
		return first(err, want(target == "nowhere", "it leads to %q", target))
	}},
	{"symbolic-link", func(dir string) error {
		long := strings.Repeat("x", 4095)
		if err := first(write(dir+"/f", "content"), os.Symlink("f", dir+"/l"), wantContent(dir+"/l", "content"),
			os.Symlink(long, dir+"/long")); err != nil {
			return err
		}
		st, errStat := lstat(dir + "/l")
		target, err := os.Readlink(dir + "/long")
		return first(errStat, err, want(st.Size == 1, "the size of a link to `f` is %d", st.Size),
			want(target == long, "a target of 4095 bytes came back with %d", len(target)))
	}},
	{"symbolic-link-loop", func(dir string) error {
		return first(os.Symlink("b", dir+"/a"), os.Symlink("a", dir+"/b"),
			wantErrno(tryOpen(dir+"/a", unix.O_RDONLY), unix.ELOOP, "a loop"))
	}},
	{"unlink", func(dir string) error {
		return first(wantErrno(unix.Unlink(dir+"/f"), unix.ENOENT, "unlink of nothing"),
			unix.Mkdir(dir+"/d", 0o755), wantErrno(unix.Unlink(dir+"/d"), unix.EISDIR, "unlink of a directory"))
	}},
	{"unlinked-file-in-use", func(dir string) error {
		return opened(dir+"/f", unix.O_CREAT|unix.O_RDWR, 0o644, func(fd int) error {
			_, err := unix.Pwrite(fd, []byte("still here"), 0)
			if err := first(err, unix.Unlink(dir+"/f")); err != nil {
				return err
			}
			var st unix.Stat_t
			back := make([]byte, 20)
			n, err := unix.Pread(fd, back, 0)
			return first(err, want(string(back[:n]) == "still here", "it holds %q", back[:n]), unix.Fstat(fd, &st),
				want(st.Nlink == 0 && st.Size == 10, "%d links, %d bytes", st.Nlink, st.Size),
				unix.Ftruncate(fd, 5), unix.Fchmod(fd, 0o600), wantErrno(tryOpen(dir+"/f", 0), unix.ENOENT, "its name"))
		})
	}},
	{"rmdir", func(dir string) error {
		return first(unix.Mkdir(dir+"/d", 0o755), write(dir+"/d/f", ""),
			wantErrno(unix.Rmdir(dir+"/d"), unix.ENOTEMPTY, "rmdir of a full directory"),
			wantErrno(unix.Rmdir(dir+"/d/f"), unix.ENOTDIR, "rmdir of a file"), unix.Unlink(dir+"/d/f"), unix.Rmdir(dir+"/d"))
	}},
}

var renameCases = []Case{
	{"rename-over-a-file-in-use", func(dir string) error {
		return first(write(dir+"/old", "old"), write(dir+"/new", "new"),
			opened(dir+"/old", unix.O_RDONLY, 0, func(fd int) error {
				back := make([]byte, 8)
				err := unix.Rename(dir+"/new", dir+"/old")
				n, errRead := unix.Pread(fd, back, 0)
				return first(err, errRead, want(string(back[:n]) == "old", "the open file holds %q", back[:n]),
					wantContent(dir+"/old", "new"), wantErrno(tryOpen(dir+"/new", 0), unix.ENOENT, "the old name"))
			}))
	}},
	{"rename-of-a-file-in-use", func(dir string) error {
		return opened(dir+"/a", unix.O_CREAT|unix.O_WRONLY, 0o644, func(fd int) error {
			err := unix.Rename(dir+"/a", dir+"/b")
			_, errWrite := unix.Write(fd, []byte("after"))
			return first(err, errWrite, wantContent(dir+"/b", "after"))
		})
	}},
	{"rename-of-directories", func(dir string) error {
		return first(unix.Mkdir(dir+"/a", 0o755), write(dir+"/a/f", "x"), unix.Mkdir(dir+"/b", 0o755),
			unix.Rename(dir+"/a", dir+"/b"), wantContent(dir+"/b/f", "x"), unix.Mkdir(dir+"/c", 0o755),
			wantErrno(unix.Rename(dir+"/c", dir+"/b"), unix.ENOTEMPTY, "over a full directory"),
			wantErrno(unix.Rename(dir+"/b", dir+"/b/d"), unix.EINVAL, "into itself"),
			write(dir+"/f", ""), wantErrno(unix.Rename(dir+"/c", dir+"/f"), unix.ENOTDIR, "a directory over a file"),
			wantErrno(unix.Rename(dir+"/f", dir+"/c"), unix.EISDIR, "a file over a directory"))
	}},
	{"rename-between-links-of-one-file", func(dir string) error {
		return first(write(dir+"/a", "x"), unix.Link(dir+"/a", dir+"/b"), unix.Rename(dir+"/a", dir+"/b"),
			wantLinks(dir+"/a", 2), wantLinks(dir+"/b", 2))
	}},
	{"rename-without-replacing", func(dir string) error {
		rename := func(from, to string) error {
			return noFlag(unix.Renameat2(unix.AT_FDCWD, dir+from, unix.AT_FDCWD, dir+to, unix.RENAME_NOREPLACE))
		}
		return first(write(dir+"/a", "a"), write(dir+"/b", "b"), wantErrno(rename("/a", "/b"), unix.EEXIST, "NOREPLACE"),
			wantContent(dir+"/b", "b"), rename("/a", "/c"), wantContent(dir+"/c", "a"))
	}},
	{"rename-exchange", func(dir string) error {
		return first(write(dir+"/a", "a"), unix.Mkdir(dir+"/b", 0o755), write(dir+"/b/f", "f"),
			noFlag(unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/b", unix.RENAME_EXCHANGE)),
			wantContent(dir+"/b", "a"), wantContent(dir+"/a/f", "f"))
	}},
}

// noFlag makes of the EINVAL that rename(2) has for flags which a file system lacks what it means.
func noFlag(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return unix.EOPNOTSUPP
	}
	return err
}

func wantLinks(path string, expected uint64) error {
	st, err := lstat(path)
	return first(err, want(uint64(st.Nlink) == expected, "%d links, not %d", st.Nlink, expected))
}
