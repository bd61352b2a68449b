package conform

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

var xattrCases = []Case{
	{"xattr", func(dir string) error {
		if err := first(write(dir+"/f", ""), unix.Setxattr(dir+"/f", "user.a", []byte("one"), 0),
			unix.Setxattr(dir+"/f", "user.b", nil, 0), unix.Setxattr(dir+"/f", "user.a", []byte("longer"), 0)); err != nil {
			return err
		}
		value := make([]byte, 64)
		n, err := unix.Getxattr(dir+"/f", "user.a", value)
		empty, errEmpty := unix.Getxattr(dir+"/f", "user.b", value[10:])
		names, errNames := xattrNames(dir + "/f")
		return first(err, errEmpty, errNames, want(string(value[:n]) == "longer", "%q", value[:n]), want(empty == 0, "%d bytes", empty),
			want(slices.Equal(names, []string{"user.a", "user.b"}), "names %q", names),
			unix.Removexattr(dir+"/f", "user.a"), wantErrno(getxattr(dir+"/f", "user.a"), unix.ENODATA, "one that was removed"))
	}},
	{"xattr-create-and-replace", func(dir string) error {
		return first(write(dir+"/f", ""),
			wantErrno(unix.Setxattr(dir+"/f", "user.a", []byte("x"), unix.XATTR_REPLACE), unix.ENODATA, "XATTR_REPLACE of nothing"),
			unix.Setxattr(dir+"/f", "user.a", []byte("x"), unix.XATTR_CREATE),
			wantErrno(unix.Setxattr(dir+"/f", "user.a", []byte("y"), unix.XATTR_CREATE), unix.EEXIST, "XATTR_CREATE twice"))
	}},
	{"xattr-of-any-size", func(dir string) error {
		value := []byte(strings.Repeat("v", 1000))
		if err := first(write(dir+"/f", ""), unix.Setxattr(dir+"/f", "user.a", value, 0)); err != nil {
			return err
		}
		size, err := unix.Getxattr(dir+"/f", "user.a", nil)
		_, errShort := unix.Getxattr(dir+"/f", "user.a", make([]byte, 10))
		return first(err, want(size == 1000, "its size is %d", size), wantErrno(errShort, unix.ERANGE, "a buffer that is too short"))
	}},
	{"xattr-of-a-directory", func(dir string) error {
		return first(unix.Setxattr(dir, "user.d", []byte("x"), 0), getxattr(dir, "user.d"))
	}},
	{"xattr-refused", func(dir string) error {
		return first(write(dir+"/f", ""), wantErrno(unix.Setxattr(dir+"/f", "nonsense.a", []byte("x"), 0), unix.EOPNOTSUPP, "no namespace"))
	}},
}

func getxattr(path, name string) error {
	_, err := unix.Getxattr(path, name, make([]byte, 64))
	return err
}

func xattrNames(path string) ([]string, error) {
	list := make([]byte, 4096)
	n, err := unix.Listxattr(path, list)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(strings.Split(string(list[:n]), "\x00"), func(name string) bool {
		return !strings.HasPrefix(name, "user.") // a security module adds its own
	})
	slices.Sort(names)
	return names, nil
}
