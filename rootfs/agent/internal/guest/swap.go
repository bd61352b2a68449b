package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/device"
	"guestforge.dev/agent/internal/fault"
)

const (
	maxSlots = 16 // buses that a disk may lie behind
	lastSlot = 0x1f
)

// SwapPCI takes the virtio disk at a PCI path as swap space: the slots from the root bus on, their functions all 0.
func SwapPCI(ctx context.Context, disks *device.Finder, slots []uint32) error {
	if len(slots) == 0 || len(slots) > maxSlots {
		return fault.Invalid("a PCI path of %d slots: there must be 1 to %d", len(slots), maxSlots)
	}
	names := make([]string, len(slots))
	for i, slot := range slots {
		if slot > lastSlot {
			return fault.Invalid("not a PCI slot: %#x", slot)
		}
		names[i] = fmt.Sprintf("%02x", slot)
	}
	address, err := device.NodeOrPCI(strings.Join(names, "/"))
	if err != nil {
		return err
	}
	return swap(ctx, disks, address)
}

// SwapNode takes the disk with a node in /dev as swap space.
func SwapNode(ctx context.Context, disks *device.Finder, node string) error {
	address, err := device.Node(node)
	if err != nil {
		return err
	}
	return swap(ctx, disks, address)
}

func swap(ctx context.Context, disks *device.Finder, address device.Address) error {
	if swapOn("") == unix.ENOSYS { // known before a disk is waited for
		return fault.Unimplemented("swap space: this guest's kernel is built without it (CONFIG_SWAP)")
	}
	node, err := disks.Wait(ctx, address)
	if err != nil {
		return err
	}
	err = swapOn(node)
	switch {
	case errors.Is(err, unix.EINVAL):
		return fault.Invalid("disk %s has no swap space on it: mkswap(8) comes first", address)
	case errors.Is(err, unix.EBUSY):
		return fault.New(codes.FailedPrecondition, "disk %s is in use, as swap space or as a file system", address)
	case err != nil:
		return fmt.Errorf("swap space on disk %s: %w", address, err)
	}
	slog.Info("swap space added", "disk", address.String(), "node", node)
	return nil
}

func swapOn(node string) error {
	path, err := unix.BytePtrFromString(node)
	if err != nil {
		return err
	}
	if _, _, err := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); err != 0 {
		return err
	}
	return nil
}
