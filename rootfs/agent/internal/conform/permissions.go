package conform

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const stranger = 54321 // a user and group that own nothing

var permissionCases = []Case{
	{"mode-of-new-files", func(dir string) error {
		defer unix.Umask(unix.Umask(0o027))
		if err := opened(dir+"/f", unix.O_CREAT|unix.O_WRONLY, 0o666, func(int) error { return nil }); err != nil {
			return err
		}
		return first(unix.Mkdir(dir+"/d", 0o777), wantMode(dir+"/f", 0o640), wantMode(dir+"/d", 0o750))
	}},
	{"chmod", func(dir string) error {
		if err := write(dir+"/f", ""); err != nil {
			return err
		}
		for _, mode := range []uint32{0, 0o111, 0o4755, 0o2755, 0o1777, 0o640} {
			if err := first(unix.Chmod(dir+"/f", mode), wantMode(dir+"/f", mode)); err != nil {
				return err
			}
		}
		return opened(dir+"/f", unix.O_RDONLY, 0, func(fd int) error {
			return first(unix.Fchmod(fd, 0o604), wantMode(dir+"/f", 0o604))
		})
	}},
	{"chown", func(dir string) error {
		return first(
			write(dir+"/f", ""), os.Symlink("f", dir+"/l"),
			unix.Chown(dir+"/f", stranger, stranger+1), wantOwner(dir+"/f", stranger, stranger+1),
			unix.Chown(dir+"/f", -1, 7), wantOwner(dir+"/f", stranger, 7),
			unix.Lchown(dir+"/l", 3, 4), wantOwner(dir+"/l", 3, 4), wantOwner(dir+"/f", stranger, 7),
		)
	}},
	{"chown-drops-setuid", func(dir string) error {
		return first(write(dir+"/f", ""), unix.Chmod(dir+"/f", 0o6755),
			unix.Chown(dir+"/f", stranger, stranger), wantMode(dir+"/f", 0o755))
	}},
	{"write-drops-setuid", func(dir string) error { // by who is not privileged
		return first(write(dir+"/f", ""), unix.Chown(dir+"/f", stranger, stranger), unix.Chmod(dir+"/f", 0o4777),
			unix.Chmod(dir, 0o777), asStranger("write", dir+"/f"), wantMode(dir+"/f", 0o777))
	}},
	{"permission-denied", func(dir string) error {
		return first(write(dir+"/f", "secret"), unix.Chmod(dir+"/f", 0o600), unix.Chmod(dir, 0o755),
			wantErrno(asStranger("read", dir+"/f"), unix.EACCES, "another user's read"),
			wantErrno(asStranger("create", dir+"/g"), unix.EACCES, "another user's new file"),
			unix.Chmod(dir+"/f", 0o604), asStranger("read", dir+"/f"))
	}},
	{"owner-of-new-files", func(dir string) error {
		return first(unix.Chmod(dir, 0o777), asStranger("create", dir+"/g"), wantOwner(dir+"/g", stranger, stranger))
	}},
	{"directory-with-setgid", func(dir string) error {
		return first(unix.Mkdir(dir+"/d", 0o755), unix.Chown(dir+"/d", -1, stranger), unix.Chmod(dir+"/d", 0o2755),
			write(dir+"/d/f", ""), wantOwner(dir+"/d/f", os.Getuid(), stranger),
			unix.Mkdir(dir+"/d/e", 0o755), wantMode(dir+"/d/e", 0o2755))
	}},
	{"directory-with-sticky-bit", func(dir string) error {
		return first(unix.Mkdir(dir+"/d", 0o777), unix.Chmod(dir+"/d", 0o1777), write(dir+"/d/f", ""),
			wantErrno(asStranger("unlink", dir+"/d/f"), unix.EPERM, "another user's unlink"))
	}},
	{"access", func(dir string) error {
		return first(write(dir+"/f", ""), unix.Chmod(dir+"/f", 0o400),
			unix.Access(dir+"/f", unix.R_OK), wantErrno(unix.Access(dir+"/f", unix.X_OK), unix.EACCES, "access X_OK"),
			wantErrno(unix.Access(dir+"/g", unix.F_OK), unix.ENOENT, "access to nothing"))
	}},
}

var timeCases = []Case{
	{"times-to-the-nanosecond", func(dir string) error {
		times := []unix.Timespec{{Sec: 981173106, Nsec: 123456789}, {Sec: 4102444800, Nsec: 999999999}}
		if err := first(write(dir+"/f", ""), unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", times, 0)); err != nil {
			return err
		}
		st, err := lstat(dir + "/f")
		return first(err, want(st.Atim == times[0] && st.Mtim == times[1], "atime %v, mtime %v", st.Atim, st.Mtim))
	}},
	{"times-omitted-and-now", func(dir string) error {
		old := []unix.Timespec{{Sec: 1000}, {Sec: 2000}}
		change := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
		if err := first(write(dir+"/f", ""), unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", old, 0),
			unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", change, 0)); err != nil {
			return err
		}
		st, err := lstat(dir + "/f")
		return first(err, want(st.Atim == old[0], "UTIME_OMIT: atime %v", st.Atim), want(st.Mtim.Sec > 1e9, "UTIME_NOW: %v", st.Mtim))
	}},
	{"times-of-a-link", func(dir string) error {
		times := []unix.Timespec{{Sec: 5}, {Sec: 6}}
		if err := first(os.Symlink("f", dir+"/l"),
			unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/l", times, unix.AT_SYMLINK_NOFOLLOW)); err != nil {
			return err
		}
		st, err := lstat(dir + "/l")
		return first(err, want(st.Mtim == times[1], "mtime %v", st.Mtim))
	}},
	{"time-of-a-write", func(dir string) error {
		past := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
		return first(write(dir+"/f", ""), unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", past, 0),
			opened(dir+"/f", unix.O_WRONLY, 0, func(fd int) error {
				if _, err := unix.Write(fd, []byte("x")); err != nil {
					return err
				}
				var st unix.Stat_t
				return first(unix.Fstat(fd, &st), want(st.Mtim.Sec > 1e9, "mtime %v after a write", st.Mtim))
			}))
	}},
	{"time-of-a-directory", func(dir string) error {
		past := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
		if err := first(unix.Mkdir(dir+"/d", 0o755), unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/d", past, 0),
			write(dir+"/d/f", "")); err != nil {
			return err
		}
		st, err := lstat(dir + "/d")
		return first(err, want(st.Mtim.Sec > 1e9, "mtime %v after a new file", st.Mtim))
	}},
	{"time-of-a-change", func(dir string) error {
		if err := write(dir+"/f", ""); err != nil {
			return err
		}
		before, err := lstat(dir + "/f")
		time.Sleep(20 * time.Millisecond) // a file system's clock may tick no more often than every 10 ms
		after, errAfter := lstat(dir + "/f")
		changed := unix.Chmod(dir+"/f", 0o600)
		last, errLast := lstat(dir + "/f")
		return first(err, errAfter, changed, errLast, want(before.Ctim == after.Ctim, "ctime changed by itself"),
			want(nanoseconds(last.Ctim) > nanoseconds(before.Ctim), "ctime %v after chmod, %v before", last.Ctim, before.Ctim))
	}},
}

func nanoseconds(t unix.Timespec) int64 { return t.Nano() }

func wantMode(path string, expected uint32) error {
	st, err := lstat(path)
	return first(err, want(st.Mode&0o7777 == expected, "mode %04o, not %04o", st.Mode&0o7777, expected))
}

func wantOwner(path string, uid, gid int) error {
	st, err := lstat(path)
	return first(err, want(int(st.Uid) == uid && int(st.Gid) == gid, "owner %d:%d, not %d:%d", st.Uid, st.Gid, uid, gid))
}

// asStranger does something in a process of another user; its error has the call's number.
func asStranger(action, path string) error {
	code, err := child(stranger, action, path)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}

// Actions are what a child process does; it exits with the error's number.
var actions = map[string]func(path string) error{
	"read":   func(path string) error { _, err := os.ReadFile(path); return err },
	"create": func(path string) error { return tryOpen(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY) },
	"unlink": unix.Unlink,
	"write": func(path string) error {
		return opened(path, unix.O_WRONLY, 0, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
	},
	"lock":  func(path string) error { return tryLock(path, unix.F_SETLK, 0, 10) },
	"lock5": func(path string) error { return tryLock(path, unix.F_SETLK, 5, 5) },
	"ofd":   func(path string) error { return tryLock(path, unix.F_OFD_SETLK, 0, 10) },
	"flock": func(path string) error {
		return opened(path, unix.O_RDWR, 0, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	},
	"wait": func(path string) error { return tryLock(path, unix.F_SETLKW, 0, 10) },
}

// Child is the other process of a case: it does an action and returns the exit code.
func Child(action, path string) int {
	do, known := actions[action]
	if !known {
		return int(unix.ENOSYS)
	}
	var number unix.Errno
	if err := do(path); errors.As(err, &number) {
		return int(number)
	} else if err != nil {
		return int(unix.EIO)
	}
	return 0
}
