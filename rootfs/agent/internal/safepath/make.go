package safepath

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/fault"
)

// maxLinks is how many symbolic links without a target are followed, as many as the kernel follows of others.
const maxLinks = 40

// Owner is whose a directory becomes that is made; -1 leaves user or group as they are.
type Owner struct{ UID, GID int }

// Nobody leaves what is made to who makes it.
var Nobody = Owner{-1, -1}

// Mkdir makes a directory and its parents where they are missing, and returns it opened with O_PATH. Where a symbolic link
// leads to what is not there, that is made: below the root, as all that links lead to.
func (r *Root) Mkdir(relative string, mode uint32) (*os.File, error) {
	return r.MkdirOwned(relative, mode, Nobody)
}

// MkdirOwned is Mkdir, and gives away what it makes.
func (r *Root) MkdirOwned(relative string, mode uint32, owner Owner) (*os.File, error) {
	at, err := r.openDir(".")
	if err != nil {
		return nil, err
	}
	w := walk{root: r, at: at, sofar: ".", left: strings.Split(relative, "/"), mode: mode, owner: owner}
	for len(w.left) > 0 {
		if err := w.step(); err != nil {
			w.at.Close()
			return nil, fmt.Errorf("make directory %s: %w", path.Join(r.dir.Name(), relative), err)
		}
	}
	return w.at, nil
}

// walk is a way to a directory of which a part was gone.
type walk struct {
	root  *Root
	at    *os.File // the directory reached
	sofar string   // the path to it
	left  []string // the names that follow
	links int      // those without a target that were met
	mode  uint32   // of what is made
	owner Owner
}

// step goes one name further.
func (w *walk) step() error {
	name := w.left[0]
	w.left = w.left[1:]
	if name == "" || name == "." {
		return nil
	}
	further := w.sofar + "/" + name
	next, err := w.root.openDir(further)
	if err != nil && errorIs(err, unix.ENOENT) {
		if target := readLink(w.at, name); target != "" {
			return w.follow(target)
		}
		if err = w.make(name); err == nil || err == unix.EEXIST {
			next, err = w.root.openDir(further)
		}
	}
	if err != nil {
		return err
	}
	w.at.Close()
	w.at, w.sofar = next, further
	return nil
}

func (w *walk) make(name string) error {
	err := unix.Mkdirat(int(w.at.Fd()), name, w.mode)
	if err != nil || w.owner == Nobody {
		return err
	}
	return unix.Fchownat(int(w.at.Fd()), name, w.owner.UID, w.owner.GID, unix.AT_SYMLINK_NOFOLLOW)
}

// follow puts a link's target in the place of its name.
func (w *walk) follow(target string) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	w.left = append(strings.Split(target, "/"), w.left...)
	if target[0] != '/' {
		return nil
	}
	top, err := w.root.openDir(".")
	if err != nil {
		return err
	}
	w.at.Close()
	w.at, w.sofar = top, "."
	return nil
}

// readLink returns what a symbolic link says, and nothing where a name is not one.
func readLink(directory *os.File, name string) string {
	target := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(int(directory.Fd()), name, target)
	if err != nil {
		return ""
	}
	return string(target[:n])
}

// File opens a file with O_PATH, or whatever else has its path. Where there is nothing it is made, empty, with the directories
// on the way, and with what links lead to as Mkdir does.
func (r *Root) File(relative string, mode uint32) (*os.File, error) {
	name := relative
	for range maxLinks {
		file, err := r.Open(name, unix.O_PATH, 0)
		if err == nil || !errorIs(err, unix.ENOENT) {
			return file, err
		}
		if name, err = r.create(name, mode); err != nil {
			return nil, fmt.Errorf("make file %s: %w", path.Join(r.dir.Name(), relative), err)
		}
	}
	return nil, &os.PathError{Op: "make file", Path: path.Join(r.dir.Name(), relative), Err: unix.ELOOP}
}

// create makes an empty file, and returns where it is to be found; of a link it returns the target's path alone.
func (r *Root) create(relative string, mode uint32) (string, error) {
	directory, name := path.Split(relative)
	if name == "" {
		return "", fault.Invalid("a directory's path")
	}
	parent, err := r.Mkdir(directory, 0o755)
	if err != nil {
		return "", err
	}
	defer parent.Close()
	target := readLink(parent, name)
	switch {
	case strings.HasPrefix(target, "/"):
		return target, nil
	case target != "":
		return directory + target, nil
	}
	flags := unix.O_RDONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(parent.Fd()), name, flags, mode)
	if err == unix.EEXIST { // somebody was faster
		return relative, nil
	}
	if err != nil {
		return "", err
	}
	return relative, unix.Close(fd)
}
