package conform

import (
	"bytes"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

const block = 4096 // what O_DIRECT is aligned to

var openCases = []Case{
	{"open-missing", func(dir string) error {
		return wantErrno(tryOpen(dir+"/none", unix.O_RDONLY), unix.ENOENT, "open of nothing")
	}},
	{"open-exclusive", func(dir string) error {
		return first(
			tryOpen(dir+"/f", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR),
			wantErrno(tryOpen(dir+"/f", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR), unix.EEXIST, "second O_EXCL"),
			os.Symlink("nowhere", dir+"/l"),
			wantErrno(tryOpen(dir+"/l", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR), unix.EEXIST, "O_EXCL on a dangling link"),
		)
	}},
	{"open-directory-flag", func(dir string) error {
		return first(
			write(dir+"/f", "x"),
			wantErrno(tryOpen(dir+"/f", unix.O_DIRECTORY), unix.ENOTDIR, "O_DIRECTORY on a file"),
			tryOpen(dir, unix.O_DIRECTORY),
			wantErrno(tryOpen(dir, unix.O_WRONLY), unix.EISDIR, "a directory for writing"),
		)
	}},
	{"open-nofollow", func(dir string) error {
		return first(
			write(dir+"/f", "x"),
			os.Symlink("f", dir+"/l"),
			wantErrno(tryOpen(dir+"/l", unix.O_NOFOLLOW), unix.ELOOP, "O_NOFOLLOW on a link"),
			tryOpen(dir+"/f", unix.O_NOFOLLOW),
		)
	}},
	{"open-truncate", func(dir string) error {
		return first(
			write(dir+"/f", "content"),
			tryOpen(dir+"/f", unix.O_WRONLY|unix.O_TRUNC),
			wantContent(dir+"/f", ""),
		)
	}},
	{"open-append", func(dir string) error {
		return opened(dir+"/f", unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND, 0o644, func(one int) error {
			return opened(dir+"/f", unix.O_WRONLY|unix.O_APPEND, 0, func(two int) error {
				for _, fd := range []int{one, two, one} {
					if _, err := unix.Write(fd, []byte{'0' + byte(fd%10)}); err != nil {
						return err
					}
				}
				st, err := lstat(dir + "/f")
				return first(err, want(st.Size == 3, "%d bytes after three appends", st.Size))
			})
		})
	}},
	{"open-direct", openDirect},
	{"open-temporary", openTemporary},
	{"open-path-only", func(dir string) error {
		return first(write(dir+"/f", "x"), opened(dir+"/f", unix.O_PATH, 0, func(fd int) error {
			var st unix.Stat_t
			_, err := unix.Read(fd, make([]byte, 1))
			return first(unix.Fstat(fd, &st), wantErrno(err, unix.EBADF, "read through O_PATH"))
		}))
	}},
	{"open-access-mode", func(dir string) error {
		return first(write(dir+"/f", "x"),
			opened(dir+"/f", unix.O_RDONLY, 0, func(fd int) error {
				_, err := unix.Write(fd, []byte("y"))
				return wantErrno(err, unix.EBADF, "write to a file open for reading")
			}),
			opened(dir+"/f", unix.O_WRONLY, 0, func(fd int) error {
				_, err := unix.Read(fd, make([]byte, 1))
				return wantErrno(err, unix.EBADF, "read from a file open for writing")
			}))
	}},
	{"open-through-file", func(dir string) error {
		return first(write(dir+"/f", "x"), wantErrno(tryOpen(dir+"/f/g", unix.O_RDONLY), unix.ENOTDIR, "a file as directory"))
	}},
	{"open-flags-reported", func(dir string) error {
		flags := unix.O_RDWR | unix.O_APPEND | unix.O_NONBLOCK
		return opened(dir+"/f", unix.O_CREAT|flags, 0o644, func(fd int) error {
			got, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			return first(err, want(got&(unix.O_ACCMODE|unix.O_APPEND|unix.O_NONBLOCK) == flags, "F_GETFL says %#o", got))
		})
	}},
}

// openDirect writes and reads past the page cache; a file system that refuses the flag at open(2) says EINVAL.
func openDirect(dir string) error {
	buffer := aligned(2 * block)
	copy(buffer, bytes.Repeat([]byte("direct"), 2*block/6+1))
	path := filepath.Join(dir, "f")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0o644)
	if err == unix.EINVAL {
		return unix.EOPNOTSUPP
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if n, err := unix.Pwrite(fd, buffer, block); err != nil || n != len(buffer) {
		return first(err, want(false, "a direct write of %d bytes did %d", len(buffer), n))
	}
	back := aligned(2 * block)
	n, err := unix.Pread(fd, back, block)
	return first(err, want(n == len(back) && bytes.Equal(back, buffer), "a direct read saw something else"),
		wantContent(path, string(make([]byte, block))+string(buffer)))
}

func aligned(size int) []byte {
	raw := make([]byte, size+block)
	skip := block - int(uintptr(unsafe.Pointer(&raw[0]))%block)
	return raw[skip : skip+size]
}

func openTemporary(dir string) error {
	return opened(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600, func(fd int) error {
		if _, err := unix.Write(fd, []byte("x")); err != nil {
			return err
		}
		names, err := os.ReadDir(dir)
		return first(err, want(len(names) == 0, "a file without a name has one"))
	})
}
