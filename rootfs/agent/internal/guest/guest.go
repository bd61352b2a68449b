// Package guest is what the host asks of the guest's machine and kernel: details, clock, random numbers, volumes.
package guest

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/safepath"
	"guestforge.dev/agent/internal/seccomp"
	"guestforge.dev/agent/internal/storage"
	"guestforge.dev/agent/internal/version"
)

const maxSeed = 4096 // bytes of random data in a request

// Details answers GetGuestDetails. A kernel without memory hotplug has no block size: 0.
func Details(h Hotplug, r *api.GuestDetailsRequest) (*api.GuestDetailsResponse, error) {
	response := &api.GuestDetailsResponse{AgentDetails: &api.AgentDetails{
		Version:         version.Version,
		InitDaemon:      os.Getpid() == 1,
		StorageHandlers: storage.Drivers(),
		SupportsSeccomp: seccomp.Available(),
	}}
	if r.MemBlockSize {
		size, err := h.blockSize()
		if err != nil {
			return nil, err
		}
		response.MemBlockSizeBytes = size
	}
	if r.MemHotplugProbe {
		response.SupportMemHotplugProbe = h.probes()
	}
	return response, nil
}

// SetTime sets the wall clock.
func SetTime(seconds, microseconds int64) error {
	if seconds < 0 || microseconds < 0 || microseconds >= 1e6 {
		return fault.Invalid("not a time: %d s and %d us", seconds, microseconds)
	}
	now := unix.NsecToTimeval(microseconds * 1000)
	now.Sec = seconds
	return unix.Settimeofday(&now)
}

// Reseed mixes random data of the host's into the kernel's generator, counts it as such, and has it used at once
// (random(4)).
func Reseed(data []byte) error {
	if len(data) == 0 || len(data) > maxSeed {
		return fault.Invalid("%d bytes of random data: there must be 1 to %d", len(data), maxSeed)
	}
	device, err := os.OpenFile("/dev/random", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	// struct rand_pool_info: entropy in bits, size in bytes, data
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(data)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(data)))
	info = append(info, data...)
	if _, _, err := unix.Syscall(unix.SYS_IOCTL, device.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); err != 0 {
		return fmt.Errorf("add entropy: %w", err)
	}
	if _, _, err := unix.Syscall(unix.SYS_IOCTL, device.Fd(), unix.RNDRESEEDCRNG, 0); err != 0 {
		return fmt.Errorf("reseed: %w", err)
	}
	return nil
}

// VolumeStats tells how full the file system at a path below base is.
func VolumeStats(base, path string) (*api.VolumeStatsResponse, error) {
	relative, err := safepath.Below(base, path)
	if err != nil {
		return nil, err
	}
	volume, err := safepath.OpenBelow(base, relative, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer volume.Close()
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(volume.Fd()), &s); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	size := uint64(s.Bsize)
	return &api.VolumeStatsResponse{
		Usage: []*api.VolumeUsage{
			{Unit: api.VolumeUsage_BYTES, Total: s.Blocks * size, Available: s.Bavail * size, Used: (s.Blocks - s.Bfree) * size},
			{Unit: api.VolumeUsage_INODES, Total: s.Files, Available: s.Ffree, Used: s.Files - s.Ffree},
		},
		VolumeCondition: &api.VolumeCondition{Message: "the volume is mounted"},
	}, nil
}
