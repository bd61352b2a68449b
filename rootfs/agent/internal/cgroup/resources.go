package cgroup

import (
	"fmt"
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
	for _, each := range r.GetHugepageLimits() {
		limits.HugetlbLimit = append(limits.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: each.Pagesize, Limit: each.Limit})
	}
	var err error
	limits.Devices, err = rules(r.GetDevices(), linux.GetDevices())
	return limits, err
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
