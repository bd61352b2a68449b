package conform

import (
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is the path of this program, which a case starts again as another process with the arguments `child ACTION
// PATH`; see Child.
var Program = "/proc/self/exe"

var lockCases = []Case{
	{"lock-between-processes", func(dir string) error {
		return lockCase(dir+"/f", "lock", func(fd int) error { return lock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 10) },
			func(fd int) error { return lock(fd, unix.F_SETLK, unix.F_UNLCK, 0, 10) })
	}},
	{"lock-of-a-range", func(dir string) error {
		return first(write(dir+"/f", "0123456789"), opened(dir+"/f", unix.O_RDWR, 0, func(fd int) error {
			return first(lock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 5), asOther("lock5", dir+"/f"),
				wantErrno(asOther("lock", dir+"/f"), unix.EAGAIN, "a lock that overlaps"))
		}))
	}},
	{"lock-told-of", func(dir string) error {
		return first(write(dir+"/f", "0123456789"), opened(dir+"/f", unix.O_RDWR, 0, func(fd int) error {
			return first(lock(fd, unix.F_SETLK, unix.F_WRLCK, 2, 3), lockedElsewhere(dir+"/f"))
		}))
	}},
	{"lock-goes-with-close", func(dir string) error {
		return first(write(dir+"/f", ""), opened(dir+"/f", unix.O_RDWR, 0, func(fd int) error {
			return first(lock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 10), tryOpen(dir+"/f", unix.O_RDONLY), asOther("lock", dir+"/f"))
		}))
	}},
	{"lock-waited-for", func(dir string) error {
		if err := write(dir+"/f", ""); err != nil {
			return err
		}
		return opened(dir+"/f", unix.O_RDWR, 0, func(fd int) error {
			if err := lock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 10); err != nil {
				return err
			}
			other, err := start(0, "wait", dir+"/f")
			if err != nil {
				return err
			}
			done := make(chan error, 1)
			go func() { done <- other.Wait() }()
			select {
			case err := <-done:
				return want(false, "the other process did not wait: %v", err)
			case <-time.After(300 * time.Millisecond):
			}
			if err := lock(fd, unix.F_SETLK, unix.F_UNLCK, 0, 10); err != nil {
				return err
			}
			select {
			case err := <-done:
				return err
			case <-time.After(20 * time.Second):
				other.Process.Kill()
				return want(false, "the other process still waits")
			}
		})
	}},
	{"lock-of-an-open-file", func(dir string) error {
		return lockCase(dir+"/f", "ofd", func(fd int) error { return lock(fd, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 10) },
			func(fd int) error { return lock(fd, unix.F_OFD_SETLK, unix.F_UNLCK, 0, 10) })
	}},
	{"lock-of-a-whole-file", func(dir string) error {
		return lockCase(dir+"/f", "flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) },
			func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) })
	}},
}

// lockCase locks a file, sees that another process can't, unlocks it, and sees that it can.
func lockCase(path, action string, lock, unlock func(fd int) error) error {
	return first(write(path, "x"), opened(path, unix.O_RDWR, 0, func(fd int) error {
		if err := lock(fd); err != nil {
			return err
		}
		if err := wantErrno(asOther(action, path), unix.EAGAIN, "the other process's lock"); err != nil {
			return err
		}
		return first(unlock(fd), asOther(action, path))
	}))
}

func lock(fd, command int, kind int16, start, length int64) error {
	return unix.FcntlFlock(uintptr(fd), command, &unix.Flock_t{Type: kind, Whence: 0, Start: start, Len: length})
}

func tryLock(path string, command int, start, length int64) error {
	return opened(path, unix.O_RDWR, 0, func(fd int) error { return lock(fd, command, unix.F_WRLCK, start, length) })
}

// lockedElsewhere fails unless another process is told that the bytes 2 to 4 are locked.
func lockedElsewhere(path string) error {
	code, err := child(0, "told", path)
	return first(err, want(code == 0, "F_GETLK in another process: %d", code))
}

func init() {
	actions["told"] = func(path string) error {
		return opened(path, unix.O_RDWR, 0, func(fd int) error {
			found := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 10}
			err := unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &found)
			return first(err, want(found.Type == unix.F_WRLCK && found.Start == 2 && found.Len == 3, "%+v", found))
		})
	}
}

// asOther does something in another process of the same user; its error has the call's number.
func asOther(action, path string) error {
	code, err := child(0, action, path)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}

// child runs an action in another process, of a user unless that is 0; it returns the exit code.
func child(user uint32, action, path string) (int, error) {
	command, err := start(user, action, path)
	if err != nil {
		return 0, err
	}
	err = command.Wait()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		return 0, err
	}
	return command.ProcessState.ExitCode(), nil
}

func start(user uint32, action, path string) (*exec.Cmd, error) {
	command := exec.Command(Program, "child", action, path)
	command.Stderr = os.Stderr
	if user != 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	return command, nil
}

var nodeCases = []Case{
	{"fifo", func(dir string) error {
		if err := unix.Mkfifo(dir+"/p", 0o600); err != nil {
			return err
		}
		return opened(dir+"/p", unix.O_RDWR|unix.O_NONBLOCK, 0, func(fd int) error {
			_, err := unix.Write(fd, []byte("through"))
			back := make([]byte, 10)
			n, errRead := unix.Read(fd, back)
			return first(err, errRead, want(string(back[:n]) == "through", "%q came out", back[:n]))
		})
	}},
	{"socket", func(dir string) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/s"}); err != nil {
			return err
		}
		st, err := lstat(dir + "/s")
		return first(err, want(st.Mode&unix.S_IFMT == unix.S_IFSOCK, "mode %o", st.Mode))
	}},
	{"device", func(dir string) error {
		if err := unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			return err
		}
		st, err := lstat(dir + "/null")
		return first(err, want(unix.Major(uint64(st.Rdev)) == 1 && unix.Minor(uint64(st.Rdev)) == 3, "device %#x", st.Rdev))
	}},
}
