package sandbox

import (
	"errors"
	"io"
	"log/slog"
	"path"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/safepath"
)

// Where Kata's agent looks for hooks of the guest, below the directory that a request names.
var hookKinds = []string{"prestart", "poststart", "poststop"}

const maxHooks = 1024 // entries of a directory that are looked at

// refuseHooks returns an error where the guest has hooks in a directory, for nobody runs them: containers may rely on them. A
// directory alone says nothing: Kata's runtime-rs always names one (/opt/kata/hooks), and its agent goes on without. Links
// are followed, for nothing is done with what they lead to.
func refuseHooks(directory string) error {
	if directory == "" {
		return nil
	}
	root, err := safepath.Open("/", safepath.Inside)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, kind := range hookKinds {
		name, err := firstProgram(root, path.Join(directory, kind))
		if err != nil {
			return err
		}
		if name != "" {
			return fault.Unimplemented("CreateSandboxRequest.guest_hook_path with hooks in it, such as %s", name)
		}
	}
	slog.Info("no hooks of the guest", "below", directory)
	return nil
}

// firstProgram returns the path of a file in a directory that may be run, if there is one.
func firstProgram(root *safepath.Root, directory string) (string, error) {
	listing, err := root.Open(directory, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer listing.Close()
	names, err := listing.Readdirnames(maxHooks)
	if err != nil && err != io.EOF {
		return "", err
	}
	for _, name := range names {
		var status unix.Stat_t
		err := unix.Fstatat(int(listing.Fd()), name, &status, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && status.Mode&unix.S_IFMT == unix.S_IFREG && status.Mode&0o111 != 0 {
			return path.Join(directory, name), nil
		}
	}
	return "", nil
}
