package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/safepath"
)

// sector is what sysfs counts a disk's size in, whatever its own sectors are.
const sector = 512

// Resize has the file system at a path below the base grow to a number of bytes, or with 0 to its whole disk. The kernel
// does that, of a file system that is mounted and in use.
func (m *Manager) Resize(path string, size uint64) error {
	volume, status, err := m.openVolume(path)
	if err != nil {
		return err
	}
	defer volume.Close()
	blockSize, err := resizable(volume)
	if err != nil {
		return err
	}
	disk, err := m.diskSize(status.Dev)
	if err != nil {
		return fmt.Errorf("the disk of %s: %w", path, err)
	}
	if size == 0 {
		size = disk
	}
	if size > disk {
		return fault.New(codes.FailedPrecondition, "%d bytes for %s, whose disk has %d: the disk grows first", size, path, disk)
	}
	if err := growExt4(volume, size/blockSize); err != nil {
		return fmt.Errorf("resize %s to %d bytes: %w", path, size, err)
	}
	slog.Info("volume resized", "on", path, "bytes", size)
	return nil
}

// openVolume opens a directory of a file system that is mounted below the base. The base's own is none to be resized.
func (m *Manager) openVolume(path string) (*os.File, *unix.Stat_t, error) {
	relative, err := safepath.Below(m.Base, path)
	if err != nil {
		return nil, nil, err
	}
	root, err := safepath.Open(m.Base, safepath.Strict)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	volume, err := root.Open(relative, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	var base, status unix.Stat_t
	err = errors.Join(unix.Fstat(root.Fd(), &base), unix.Fstat(int(volume.Fd()), &status))
	if err == nil && base.Dev == status.Dev {
		err = fault.Invalid("no volume is mounted at %q", path)
	}
	if err != nil {
		volume.Close()
		return nil, nil, err
	}
	return volume, &status, nil
}

// diskSize returns the size of a block device in bytes.
func (m *Manager) diskSize(device uint64) (uint64, error) {
	number := fmt.Sprintf("%d:%d", unix.Major(device), unix.Minor(device))
	text, err := os.ReadFile(filepath.Join(m.Devices.Sys, "dev", "block", number, "size"))
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 54)
	return sectors * sector, err
}

// resizable returns the size of a file system's blocks, or why it can't grow.
func resizable(volume *os.File) (uint64, error) {
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(volume.Fd()), &system); err != nil {
		return 0, err
	}
	switch {
	case system.Type != unix.EXT4_SUPER_MAGIC:
		return 0, fault.Unimplemented("another size of %s, a file system (%#x) that is no ext4", volume.Name(), system.Type)
	case system.Flags&unix.ST_RDONLY != 0:
		return 0, fault.New(codes.FailedPrecondition, "%s is mounted read-only: it can't grow", volume.Name())
	}
	return uint64(system.Bsize), nil
}
