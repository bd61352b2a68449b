package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
)

// The limits by their numbers (include/uapi/asm-generic/resource.h; the same on all architectures that we build for).
var limits = map[string]int{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
	"RLIMIT_NPROC": 6, filesLimit: 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
	"RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

// What a program gets that asks for no limit of files. Some close all that they could have open, and some make tables for
// all that they could have by raising their limit (https://github.com/docker-library/haproxy/issues/194).
const (
	filesLimit = "RLIMIT_NOFILE"
	softFiles  = 1024
	hardFiles  = 1 << 20
)

// checkLimit returns an error for a limit that no process can have.
func checkLimit(limit *api.POSIXRlimit) error {
	if _, known := limits[limit.Type]; !known {
		return fault.Invalid("no such limit: %q", limit.Type)
	}
	if limit.Soft > limit.Hard {
		return fault.Invalid("%s of %d is more than the hard limit of %d", limit.Type, limit.Soft, limit.Hard)
	}
	if limit.Type != filesLimit {
		return nil
	}
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return err
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err == nil && limit.Hard > most {
		err = fault.Invalid("%s of %d: this guest's processes may open %d files (fs.nr_open)", limit.Type, limit.Hard, most)
	}
	return err
}

// setLimits is for the process that is to be the program.
func setLimits(process *api.Process) error {
	var files unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &files); err != nil {
		return err
	}
	files = unix.Rlimit{Cur: min(softFiles, files.Max), Max: min(hardFiles, files.Max)}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &files, nil); err != nil {
		return err
	}
	for _, limit := range process.Rlimits {
		if err := setLimit(limit); err != nil {
			return err
		}
	}
	if process.OOMScoreAdj == 0 {
		return nil
	}
	return os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.FormatInt(process.OOMScoreAdj, 10)), 0)
}

func setLimit(limit *api.POSIXRlimit) error {
	var before unix.Rlimit
	if err := unix.Prlimit(0, limits[limit.Type], nil, &before); err != nil {
		return err
	}
	value := unix.Rlimit{Cur: limit.Soft, Max: limit.Hard}
	if err := unix.Prlimit(0, limits[limit.Type], &value, nil); err != nil {
		return fmt.Errorf("set %s to %d, the hard one to %d: %w (the hard one is %d)",
			limit.Type, limit.Soft, limit.Hard, err, before.Max)
	}
	return nil
}
