package cgroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/devices/config"

	"guestforge.dev/agent/internal/api"
)

// What every container may do with devices, after the rules of its spec: make any node, and use those that the OCI
// specification puts into every /dev (config-linux.md, "Default Devices"), and terminals of its own.
var always = []*config.Rule{
	allow(config.CharDevice, config.Wildcard, config.Wildcard, "m"),
	allow(config.BlockDevice, config.Wildcard, config.Wildcard, "m"),
	allow(config.CharDevice, 1, 3, "rwm"), // null
	allow(config.CharDevice, 1, 5, "rwm"), // zero
	allow(config.CharDevice, 1, 7, "rwm"), // full
	allow(config.CharDevice, 1, 8, "rwm"), // random
	allow(config.CharDevice, 1, 9, "rwm"), // urandom
	allow(config.CharDevice, 5, 0, "rwm"), // tty
	allow(config.CharDevice, 5, 2, "rwm"), // ptmx
	allow(config.CharDevice, 136, config.Wildcard, "rwm"),
}

var types = map[string]config.Type{
	"": config.WildcardDevice, "a": config.WildcardDevice, "b": config.BlockDevice, "c": config.CharDevice,
	"u": config.CharDevice,
}

// resources returns what a spec asks for in the library's words. A device that the spec puts into the container may be used.
// An error is the caller's.
func resources(linux *api.Linux) (*cgroups.Resources, error) {
	r := linux.GetResources()
	memory, cpu := r.GetMemory(), r.GetCPU()
	limits := &cgroups.Resources{
		Memory: memory.GetLimit(), MemoryReservation: memory.GetReservation(), MemorySwap: memory.GetSwap(),
		CpuWeight: cgroups.ConvertCPUSharesToCgroupV2Value(cpu.GetShares()),
		CpuQuota:  cpu.GetQuota(), CpuPeriod: cpu.GetPeriod(),
		CpusetCpus: cpu.GetCpus(), CpusetMems: cpu.GetMems(),
	}
	if limit := r.GetPids().GetLimit(); limit != 0 {
		limits.PidsLimit = &limit
	}
	if _, err := cgroups.ConvertMemorySwapToCgroupV2Value(limits.MemorySwap, limits.Memory); err != nil {
		return nil, fmt.Errorf("limit of swap space: %w", err)
	}
	if err := setBlockIO(limits, r.GetBlockIO()); err != nil {
		return nil, err
	}
	var err error
	if limits.HugetlbLimit, err = hugePages(r.GetHugepageLimits(), cgroups.HugePageSizes()); err != nil {
		return nil, err
	}
	limits.Devices, err = rules(r.GetDevices(), linux.GetDevices())
	return limits, err
}

// hugePages returns limits of huge pages. Those of sizes that this kernel does not have are left out, for nobody gets such
// pages: of a pod they are the host's sizes, each with a limit of 0 where the pod asks for none.
func hugePages(asked []*api.LinuxHugepageLimit, sizes []string) (all []*cgroups.HugepageLimit, err error) {
	for _, each := range asked {
		unit := strings.TrimLeft(each.Pagesize, "0123456789")
		if unit == each.Pagesize || !slices.Contains([]string{"KB", "MB", "GB"}, unit) {
			return nil, fmt.Errorf("limit of huge pages: not a size of pages: %q", each.Pagesize)
		}
		if slices.Contains(sizes, each.Pagesize) {
			all = append(all, &cgroups.HugepageLimit{Pagesize: each.Pagesize, Limit: each.Limit})
		}
	}
	return all, nil
}

// rules returns which devices a container may use: a later rule goes before an earlier one.
func rules(asked []*api.LinuxDeviceCgroup, devices []*api.LinuxDevice) ([]*config.Rule, error) {
	all := []*config.Rule{{Type: config.WildcardDevice, Major: config.Wildcard, Minor: config.Wildcard, Permissions: "rwm"}}
	for _, each := range asked {
		kind, known := types[each.Type]
		if !known || strings.Trim(each.Access, "rwm") != "" {
			return nil, fmt.Errorf("device rule: type %q, access %q", each.Type, each.Access)
		}
		rule := &config.Rule{
			Type: kind, Major: wildcard(each.Major), Minor: minor(each),
			Permissions: config.Permissions(each.Access), Allow: each.Allow,
		}
		if each.Access == "" {
			rule.Permissions = "rwm"
		}
		if kind == config.WildcardDevice { // it is for all devices, whatever numbers stand beside it
			rule.Major, rule.Minor = config.Wildcard, config.Wildcard
		}
		all = append(all, rule)
	}
	for _, each := range devices {
		if kind := types[each.Type]; kind == config.BlockDevice || kind == config.CharDevice {
			all = append(all, allow(kind, each.Major, each.Minor, "rwm"))
		}
	}
	return append(all, always...), nil
}

// wildcard returns a major number: a message has 0 where the spec names none, and no device has that.
func wildcard(major int64) int64 {
	if major <= 0 {
		return config.Wildcard
	}
	return major
}

// minor returns a minor number. Where 0 may be a number or none, it is what gives less.
func minor(rule *api.LinuxDeviceCgroup) int64 {
	if rule.Minor < 0 || rule.Minor == 0 && (rule.Major <= 0 || !rule.Allow) {
		return config.Wildcard
	}
	return rule.Minor
}

func allow(kind config.Type, major, minor int64, access config.Permissions) *config.Rule {
	return &config.Rule{Type: kind, Major: major, Minor: minor, Permissions: access, Allow: true}
}
