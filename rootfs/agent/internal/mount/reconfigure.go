package mount

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reconfigure changes options of a file system that is mounted, and attributes of that one mount; what the options do not
// name stays as it is. The target is the root of the mount: of any other place fspick(2) knows nothing.
func Reconfigure(target *os.File, options Options) error {
	fd, err := unix.Fspick(int(target.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH|unix.FSPICK_NO_AUTOMOUNT)
	if err != nil {
		return fmt.Errorf("remount %s: not the root of a mount: %w", target.Name(), err)
	}
	context := os.NewFile(uintptr(fd), target.Name())
	defer context.Close()
	err = set(fd, options)
	if err == nil {
		err = unix.FsconfigReconfigure(fd)
	}
	if err != nil {
		return fmt.Errorf("remount %s: %w%s", target.Name(), err, complaints(context))
	}
	return setattr(target, unix.MountAttr{Attr_set: options.Set, Attr_clr: options.clear}, false)
}
