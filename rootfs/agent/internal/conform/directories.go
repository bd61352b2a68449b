package conform

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func directoryCases(many int) []Case {
	return []Case{
		{"directory-entries", func(dir string) error {
			kinds := map[string]func(string) error{
				"file": func(path string) error { return write(path, "") }, "directory": func(path string) error { return unix.Mkdir(path, 0o755) },
				"link": func(path string) error { return os.Symlink("x", path) }, "pipe": func(path string) error { return unix.Mkfifo(path, 0o600) },
			}
			for name, create := range kinds {
				if err := create(dir + "/" + name); err != nil {
					return err
				}
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != len(kinds) {
				return first(err, fmt.Errorf("%d entries, not %d", len(entries), len(kinds)))
			}
			for _, entry := range entries {
				info, err := entry.Info()
				if err := first(err, want(entry.Type() == info.Mode().Type(), "%s: type %v, then %v", entry.Name(), entry.Type(), info.Mode())); err != nil {
					return err
				}
			}
			return nil
		}},
		{"directory-links", func(dir string) error {
			st, err := lstat(dir)
			up, errUp := lstat(dir + "/..")
			dot, errDot := lstat(dir + "/.")
			parent, errParent := lstat(dir[:strings.LastIndexByte(dir, '/')])
			return first(err, errUp, errDot, errParent, want(dot.Ino == st.Ino && up.Ino == parent.Ino, "`.` or `..` leads elsewhere"))
		}},
		{"directory-read-under-change", func(dir string) error { return readUnderChange(dir, 500) }},
		{"directory-seek", func(dir string) error { return seekDirectory(dir, 500) }},
		{"directory-rewound", func(dir string) error {
			return opened(dir, unix.O_DIRECTORY, 0, func(fd int) error {
				before, err := names(fd)
				made := write(dir+"/new", "")
				_, errSeek := unix.Seek(fd, 0, unix.SEEK_SET)
				after, errAfter := names(fd)
				return first(err, made, errSeek, errAfter, want(len(before) == 0 && slices.Equal(after, []string{"new"}), "%q, then %q", before, after))
			})
		}},
		{"directory-removed-while-open", func(dir string) error {
			return first(unix.Mkdir(dir+"/d", 0o755), opened(dir+"/d", unix.O_DIRECTORY, 0, func(fd int) error {
				if err := unix.Rmdir(dir + "/d"); err != nil {
					return err
				}
				left, err := names(fd)
				if err == unix.ENOENT {
					err = nil
				}
				return first(err, want(len(left) == 0, "it holds %q", left), wantErrno(unix.Mkdirat(fd, "e", 0o755), unix.ENOENT, "mkdir in it"))
			}))
		}},
		{"names", func(dir string) error {
			for _, name := range []string{strings.Repeat("n", 255), " ", "new\nline", "\xff\xfe", "ünïcödé", "-rf", "a\\b", "..."} {
				if err := first(write(dir+"/"+name, name), wantContent(dir+"/"+name, name)); err != nil {
					return err
				}
			}
			entries, err := os.ReadDir(dir)
			return first(err, want(len(entries) == 8, "%d entries, not 8", len(entries)),
				wantErrno(tryOpen(dir+"/"+strings.Repeat("n", 256), unix.O_CREAT|unix.O_WRONLY), unix.ENAMETOOLONG, "a name of 256 bytes"))
		}},
		{"deep-path", func(dir string) error {
			path := dir
			for range 40 {
				path += "/" + strings.Repeat("d", 60)
				if err := unix.Mkdir(path, 0o755); err != nil {
					return err
				}
			}
			return first(write(path+"/f", "deep"), wantContent(path+"/f", "deep"))
		}},
		{"directory-of-many", func(dir string) error { return manyFiles(dir, many) }},
	}
}

// readUnderChange reads a directory in pieces while others are removed and made: what stays must come exactly once.
func readUnderChange(dir string, count int) error {
	for i := range count {
		if err := write(fmt.Sprintf("%s/stay-%04d", dir, i), ""); err != nil {
			return err
		}
		if err := write(fmt.Sprintf("%s/go-%04d", dir, i), ""); err != nil {
			return err
		}
	}
	return opened(dir, unix.O_DIRECTORY, 0, func(fd int) error {
		seen := map[string]int{}
		buffer := make([]byte, 2048)
		for step := 0; ; step++ {
			n, err := unix.Getdents(fd, buffer)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			_, _, found := unix.ParseDirent(buffer[:n], -1, nil)
			for _, name := range found {
				seen[name]++
			}
			if step < count {
				if err := first(unix.Unlink(fmt.Sprintf("%s/go-%04d", dir, step)), write(fmt.Sprintf("%s/late-%04d", dir, step), "")); err != nil {
					return err
				}
			}
		}
		for i := range count {
			if name := fmt.Sprintf("stay-%04d", i); seen[name] != 1 {
				return fmt.Errorf("%s came %d times", name, seen[name])
			}
		}
		return nil
	})
}

// seekDirectory goes back to a position that it was at, and must see the same from there.
func seekDirectory(dir string, count int) error {
	for i := range count {
		if err := write(fmt.Sprintf("%s/entry-%04d", dir, i), ""); err != nil {
			return err
		}
	}
	return opened(dir, unix.O_DIRECTORY, 0, func(fd int) error {
		buffer := make([]byte, 4096)
		if _, err := unix.Getdents(fd, buffer); err != nil {
			return err
		}
		position, err := unix.Seek(fd, 0, unix.SEEK_CUR)
		if err != nil {
			return err
		}
		once, err := names(fd)
		_, errSeek := unix.Seek(fd, position, unix.SEEK_SET)
		again, errAgain := names(fd)
		return first(err, errSeek, errAgain, want(len(once) > 0 && slices.Equal(once, again), "%d entries, then %d", len(once), len(again)))
	})
}

func manyFiles(dir string, count int) error {
	for i := range count {
		if err := tryOpen(fmt.Sprintf("%s/%06d", dir, i), unix.O_CREAT|unix.O_WRONLY); err != nil {
			return err
		}
	}
	return opened(dir, unix.O_DIRECTORY, 0, func(fd int) error {
		found, err := names(fd)
		if err != nil {
			return err
		}
		slices.Sort(found)
		for i, name := range slices.Compact(found) {
			if name != fmt.Sprintf("%06d", i) {
				return fmt.Errorf("%s where %06d belongs", name, i)
			}
		}
		return want(len(found) == count, "%d names of %d files", len(found), count)
	})
}

// names reads the rest of an open directory.
func names(fd int) ([]string, error) {
	var all []string
	buffer := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buffer)
		if err != nil || n <= 0 {
			return all, err
		}
		_, _, all = unix.ParseDirent(buffer[:n], -1, all)
	}
}
