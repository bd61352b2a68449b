// Package conform is a set of cases of what POSIX and Linux promise of a file system: each does something in a directory
// of its own and compares what it sees. It knows no file system from another; which cases one may fail is for others to
// say. The promises are those of POSIX.1-2017 and of the Linux manual pages that the cases name by their calls.
package conform

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Status is what became of a case.
type Status string

// The values of a Status. Unsupported is a file system's word for it: EOPNOTSUPP, ENOTSUP, ENOSYS.
const (
	Pass        Status = "pass"
	Fail        Status = "fail"
	Unsupported Status = "unsupported"
)

// Result is what became of a case.
type Result struct {
	Name   string  `json:"name"`
	Status Status  `json:"status"`
	Detail string  `json:"detail,omitempty"`
	Millis float64 `json:"ms"`
}

// Case is a promise. Run gets an empty directory.
type Case struct {
	Name string
	Run  func(dir string) error
}

// Cases returns all cases. `many` is the number of files of the large directory.
func Cases(many int) []Case {
	var all []Case
	for _, group := range [][]Case{
		openCases, permissionCases, timeCases, linkCases, renameCases, dataCases, sparseCases, lockCases, xattrCases,
		mapCases, nodeCases, executeCases, directoryCases(many),
	} {
		all = append(all, group...)
	}
	return all
}

// Run runs cases below a directory, one after the other, and removes what they leave behind.
func Run(cases []Case, below string, onResult func(Result)) {
	for _, c := range cases {
		onResult(runOne(c, filepath.Join(below, c.Name)))
	}
}

func runOne(c Case, dir string) (result Result) {
	start := time.Now()
	result = Result{Name: c.Name, Status: Fail}
	defer func() {
		if cause := recover(); cause != nil { // one broken case must not hide the others
			result.Detail = fmt.Sprint("panic: ", cause)
		}
		result.Millis = float64(time.Since(start).Microseconds()) / 1000
		os.RemoveAll(dir)
	}()
	if err := os.Mkdir(dir, 0o777); err != nil {
		result.Detail = err.Error()
		return result
	}
	err := c.Run(dir)
	switch {
	case err == nil:
		result.Status = Pass
	case isUnsupported(err):
		result.Status, result.Detail = Unsupported, err.Error()
	default:
		result.Detail = err.Error()
	}
	return result
}

func isUnsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}

// want fails with a text unless a condition holds.
func want(holds bool, format string, values ...any) error {
	if holds {
		return nil
	}
	return fmt.Errorf(format, values...)
}

// wantErrno fails unless an error is the one that was to come; one that says "unsupported" passes through.
func wantErrno(err error, expected unix.Errno, what string) error {
	switch {
	case errors.Is(err, expected):
		return nil
	case err == nil:
		return fmt.Errorf("%s: succeeded, not %v", what, expected)
	case isUnsupported(err):
		return err
	}
	return fmt.Errorf("%s: %v, not %v", what, err, expected)
}

// first returns the first error of several.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func write(path, content string) error { return os.WriteFile(path, []byte(content), 0o644) }

func wantContent(path, expected string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return want(string(data) == expected, "%s holds %.60q, not %.60q", filepath.Base(path), data, expected)
}

func lstat(path string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	return st, err
}

// opened opens a file, has it used, and closes it.
func opened(path string, flags int, mode uint32, use func(fd int) error) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	defer unix.Close(fd)
	return use(fd)
}

// tryOpen opens and closes a file.
func tryOpen(path string, flags int) error {
	return opened(path, flags, 0o644, func(int) error { return nil })
}
