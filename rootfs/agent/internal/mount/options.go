// Package mount mounts by file descriptors, with the kernel's newer interface (fsopen(2), open_tree(2), move_mount(2)):
// no path is resolved twice, and the kernel says in words what it did not like.
package mount

import (
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/fault"
)

// Options are mount options, sorted by what takes them.
type Options struct {
	Bind, Recursive bool
	Set             uint64   // MOUNT_ATTR_*: attributes of the mount
	SetBelow        bool     // they are for all mounts below a recursive bind mount too
	clear           uint64   // the same, to be taken away
	Superblock      []string // flags of the file system: ro, sync, ...
	Data            []string // the file system's own options
	Propagation     uint64   // MS_PRIVATE and the like; 0 leaves it as it is
	deep            bool     // the propagation is for all mounts below too
}

type attribute struct{ set, clear uint64 }

var attributes = map[string]attribute{
	"defaults": {}, "loud": {}, "silent": {},
	"ro": {set: unix.MOUNT_ATTR_RDONLY}, "rw": {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid": {set: unix.MOUNT_ATTR_NOSUID}, "suid": {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev": {set: unix.MOUNT_ATTR_NODEV}, "dev": {clear: unix.MOUNT_ATTR_NODEV},
	"noexec": {set: unix.MOUNT_ATTR_NOEXEC}, "exec": {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime": {set: unix.MOUNT_ATTR_NODIRATIME}, "diratime": {clear: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"noatime":     {unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME},
	"strictatime": {unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
	"relatime":    {clear: unix.MOUNT_ATTR__ATIME}, "atime": {clear: unix.MOUNT_ATTR__ATIME},
	"norelatime": {clear: unix.MOUNT_ATTR__ATIME}, "nostrictatime": {clear: unix.MOUNT_ATTR__ATIME},
}

var superblockFlags = map[string]bool{
	"ro": true, "rw": true, "sync": true, "async": true, "dirsync": true, "lazytime": true, "nolazytime": true,
	"mand": true, "nomand": true,
}

var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "shared": unix.MS_SHARED, "slave": unix.MS_SLAVE, "unbindable": unix.MS_UNBINDABLE,
}

const (
	maxOptions = 256
	maxOption  = 4095 // the kernel takes less of most
)

// ParseOptions sorts options, which may be lists with commas. Of options that contradict each other the last one wins.
func ParseOptions(lists []string) (Options, error) {
	var o Options
	count := 0
	for _, list := range lists {
		for option := range strings.SplitSeq(list, ",") {
			if count++; count > maxOptions || len(option) > maxOption || strings.IndexByte(option, 0) >= 0 {
				return Options{}, fault.Invalid("mount options: more than %d, or one too long", maxOptions)
			}
			if err := o.add(option); err != nil {
				return Options{}, err
			}
		}
	}
	return o, nil
}

func (o *Options) add(option string) error {
	change, isAttribute := attributes[option]
	propagation, isPropagation := propagations[strings.TrimPrefix(option, "r")]
	switch {
	case option == "":
	case option == "bind" || option == "rbind":
		o.Bind, o.Recursive = true, option == "rbind"
	case option == "remount":
		return fault.Invalid("a storage can't be remounted")
	case isPropagation:
		o.Propagation, o.deep = propagation, option[0] == 'r'
	case isAttribute || superblockFlags[option]:
		o.Set = o.Set&^change.clear | change.set
		o.clear = o.clear&^change.set | change.clear
		if superblockFlags[option] {
			o.Superblock = append(o.Superblock, option)
		}
	default:
		o.Data = append(o.Data, option)
	}
	return nil
}
