// Package storage mounts the storages that a runtime names in its requests, and keeps count of their users.
package storage

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/device"
	"guestforge.dev/agent/internal/fault"
)

// A driver returns the source and the type to mount a storage with. An empty type: there is nothing to mount, only the
// directory to make.
type driver func(ctx context.Context, m *Manager, s *api.Storage) (source, fstype string, err error)

var drivers = map[string]driver{
	"virtio-fs": virtioFS,
	"9p":        plan9,
	"blk":       disk(device.NodeOrPCI),
	"mmioblk":   disk(device.Node),
	"scsi":      disk(device.SCSI),
	"blk-ccw":   disk(device.CCW),
	"ephemeral": ephemeral,
	"overlayfs": overlay,
	"local":     local,

	watchableBind: watchableDriver,
}

// Drivers returns the names of the drivers.
func Drivers() []string {
	names := make([]string, 0, len(drivers))
	for name := range drivers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// File systems that a disk may hold. Others can't be asked for: a type is code in the guest's kernel.
var diskTypes = map[string]bool{"ext4": true, "xfs": true, "erofs": true, "squashfs": true, "btrfs": true, "vfat": true}

const maxTag = 36 // virtio 1.2, 5.11.4: struct virtio_fs_config

func virtioFS(_ context.Context, _ *Manager, s *api.Storage) (string, string, error) {
	if s.Source == "" || len(s.Source) > maxTag || strings.IndexByte(s.Source, 0) >= 0 {
		return "", "", fault.Invalid("not a virtio-fs tag of 1 to %d bytes: %q", maxTag, s.Source)
	}
	return s.Source, "virtiofs", expectType(s, "virtiofs")
}

const maxPlan9Tag = 255 // the tag's length is 16 bits; Linux's driver takes what a path of sysfs may hold

// plan9 mounts a share by its tag. Kata's runtimes send this driver, Kata's agent had it until 2026.
func plan9(_ context.Context, _ *Manager, s *api.Storage) (string, string, error) {
	if s.Source == "" || len(s.Source) > maxPlan9Tag || strings.IndexByte(s.Source, 0) >= 0 {
		return "", "", fault.Invalid("not a 9p tag of 1 to %d bytes: %q", maxPlan9Tag, s.Source)
	}
	return s.Source, "9p", expectType(s, "9p")
}

func disk(parse func(string) (device.Address, error)) driver {
	return func(ctx context.Context, m *Manager, s *api.Storage) (string, string, error) {
		address, err := parse(s.Source)
		if err != nil {
			return "", "", err
		}
		if !diskTypes[s.Fstype] {
			return "", "", fault.Invalid("not a file system of disks: %q", s.Fstype)
		}
		node, err := m.Devices.Wait(ctx, address)
		return node, s.Fstype, err
	}
}

func ephemeral(_ context.Context, _ *Manager, s *api.Storage) (string, string, error) {
	if s.Fstype == hugetlbfs {
		return "none", hugetlbfs, nil
	}
	return "tmpfs", "tmpfs", expectType(s, "tmpfs")
}

func overlay(_ context.Context, _ *Manager, s *api.Storage) (string, string, error) {
	return "overlay", "overlay", expectType(s, "overlay", "overlayfs")
}

func local(_ context.Context, _ *Manager, s *api.Storage) (string, string, error) {
	for _, option := range s.Options {
		if !strings.HasPrefix(option, modeOption) && !strings.HasPrefix(option, groupOption) {
			return "", "", fault.Invalid("not an option of a local storage: %q", option)
		}
	}
	return "", "", expectType(s, "local")
}

const (
	modeOption  = "mode="
	groupOption = "fsgid=" // by which Kata's runtimes give a volume to the group of a pod
	setGroup    = 0o2000   // what is made in such a volume is the group's too
	nobody      = -1       // as chown(2) has it
)

// ownership is what a volume's options say of its top directory. The rest are its file system's.
type ownership struct {
	mode uint32
	gid  int
	rest []string
}

// parseOwnership returns the mode and the group of a volume, with a mode of its own where the options have none.
func parseOwnership(options []string, mode uint32) (ownership, error) {
	o := ownership{mode: mode, gid: nobody}
	for _, option := range options {
		if text, found := strings.CutPrefix(option, modeOption); found {
			value, err := strconv.ParseUint(text, 8, 32)
			if err != nil || value > 0o7777 {
				return o, fault.Invalid("not a mode: %q", option)
			}
			o.mode = uint32(value)
		} else if text, found := strings.CutPrefix(option, groupOption); found {
			value, err := strconv.ParseUint(text, 10, 32)
			if err != nil || value == 1<<32-1 {
				return o, fault.Invalid("not a group: %q", option)
			}
			o.gid = int(value)
		} else {
			o.rest = append(o.rest, option)
		}
	}
	if o.gid != nobody {
		o.mode |= setGroup
	}
	return o, nil
}

// Modes of the top directories of file systems that take `mode` and `gid`, where nobody names one.
var ownedModes = map[string]uint32{"tmpfs": 0o1777, hugetlbfs: 0o755}

// grouped returns options of a file system, in which `fsgid` is said in its own words.
func grouped(fstype string, options []string) ([]string, error) {
	mode, owned := ownedModes[fstype]
	if !owned {
		return options, nil
	}
	o, err := parseOwnership(options, mode)
	if err != nil || o.gid == nobody {
		return options, err
	}
	return append(o.rest, "gid="+strconv.Itoa(o.gid), modeOption+strconv.FormatUint(uint64(o.mode), 8)), nil
}

func expectType(s *api.Storage, types ...string) error {
	if s.Fstype != "" && !slices.Contains(types, s.Fstype) {
		return fault.Invalid("file system type %q of driver %q, which mounts %s", s.Fstype, s.Driver, types[0])
	}
	return nil
}
