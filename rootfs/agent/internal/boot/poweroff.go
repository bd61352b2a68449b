package boot

import (
	"log/slog"
	"os"
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

// endProcesses kills all but this one and waits until they have gone, since they keep file systems busy. kill(2) does not
// tell whether anybody is left: it counts the kernel's own threads.
func endProcesses() {
	limit := time.Now().Add(endTimeout)
	for programs() > 0 && time.Now().Before(limit) {
		unix.Kill(-1, unix.SIGKILL)
		time.Sleep(2 * time.Millisecond)
	}
}

// programs counts the processes besides this one that run a program: kernel threads and zombies have none.
func programs() int {
	directory, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer directory.Close()
	names, _ := directory.Readdirnames(-1)
	count := 0
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' || name == "1" {
			continue
		}
		if _, err := os.Readlink("/proc/" + name + "/exe"); err == nil {
			count++
		}
	}
	return count
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
