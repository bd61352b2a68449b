package cgroup

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
)

const leastWeight, mostWeight = 10, 1000 // OCI runtime specification, config-linux.md, "Block IO"

// setBlockIO adds the limits of block I/O that a spec asks for to those of a cgroup.
func setBlockIO(limits *cgroups.Resources, asked *api.LinuxBlockIO) error {
	limits.BlkioThrottleReadBpsDevice = throttles(asked.GetThrottleReadBpsDevice())
	limits.BlkioThrottleWriteBpsDevice = throttles(asked.GetThrottleWriteBpsDevice())
	limits.BlkioThrottleReadIOPSDevice = throttles(asked.GetThrottleReadIOPSDevice())
	limits.BlkioThrottleWriteIOPSDevice = throttles(asked.GetThrottleWriteIOPSDevice())
	return setWeights(limits, asked)
}

// throttles returns limits of what is read or written of disks in a second. A rate of 0 is none, as in version 1 of
// cgroups, which the OCI specification was made for.
func throttles(asked []*api.LinuxThrottleDevice) (all []*cgroups.ThrottleDevice) {
	for _, each := range asked {
		rate := each.Rate
		if rate == 0 {
			rate = math.MaxUint64 // io.max has no other number for "max"
		}
		all = append(all, cgroups.NewThrottleDevice(each.Major, each.Minor, rate))
	}
	return all
}

// setWeights adds a container's share of disks, which is no limit: where the kernel knows no shares, that is logged. It
// does with CONFIG_IOSCHED_BFQ, of each disk alone too, or with CONFIG_BLK_CGROUP_IOCOST.
func setWeights(limits *cgroups.Resources, asked *api.LinuxBlockIO) error {
	if weight := asked.GetWeight(); weight != 0 {
		if err := checkWeight(weight); err != nil {
			return err
		}
		if weighs("io.bfq.weight", "io.weight") {
			limits.BlkioWeight = uint16(weight)
		}
	}
	for _, each := range asked.GetWeightDevice() {
		if each.Weight == 0 { // it has another one, which version 2 of cgroups does not know
			continue
		}
		if err := checkWeight(each.Weight); err != nil {
			return err
		}
		if weighs("io.bfq.weight") {
			weight := cgroups.NewWeightDevice(each.Major, each.Minor, uint16(each.Weight), 0)
			limits.BlkioWeightDevice = append(limits.BlkioWeightDevice, weight)
		}
	}
	return nil
}

func checkWeight(weight uint32) error {
	if weight < leastWeight || weight > mostWeight {
		return fault.Invalid("a weight of block I/O of %d: it is %d to %d", weight, leastWeight, mostWeight)
	}
	return nil
}

// weighs tells whether the kernel has one of the files of weights.
func weighs(names ...string) bool {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(parent, name)); err == nil {
			return true
		}
	}
	slog.Warn("a weight of block I/O is left out: this kernel has none")
	return false
}
