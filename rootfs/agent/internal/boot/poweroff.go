package boot

import (
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/mount"
)

// endTimeout bounds the wait for processes that were told to end.
const endTimeout = 2 * time.Second

// virtual file systems hold nothing that would be lost.
var virtual = []string{"proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "cgroup2", "rootfs", "ramfs", "mqueue", "autofs"}

// PowerOff ends the guest: all processes first, then all file systems with what was written to them. It returns only
// with an error.
func PowerOff() error {
	slog.Info("power off")
	endProcesses()
	unmountAll()
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func endProcesses() {
	limit := time.Now().Add(endTimeout)
	for unix.Kill(-1, unix.SIGKILL) != unix.ESRCH && time.Now().Before(limit) {
		time.Sleep(2 * time.Millisecond)
	}
}

// unmountAll unmounts what is left; a file system that is in use, as the root is, becomes read-only, which leaves it as
// clean on its disk.
func unmountAll() {
	table, err := mount.Table()
	if err != nil {
		slog.Error("mounts are not known", "error", err)
		return
	}
	for _, entry := range slices.Backward(table) {
		if slices.Contains(virtual, entry.Fstype) {
			continue
		}
		if entry.Target != "/" && unix.Unmount(entry.Target, unix.UMOUNT_NOFOLLOW) == nil {
			continue
		}
		if err := unix.Mount("", entry.Target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			slog.Error("file system may not be clean", "on", entry.Target, "type", entry.Fstype, "error", err)
		}
	}
}
