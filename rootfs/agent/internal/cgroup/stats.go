package cgroup

import (
	"github.com/opencontainers/cgroups"

	"guestforge.dev/agent/internal/api"
)

// Stats returns what a container has used, in the words of the interface: seconds are nanoseconds, sizes bytes.
func (c *Cgroup) Stats() (*api.CgroupStats, error) {
	if c == nil {
		return nil, errNone
	}
	found, err := c.manager.GetStats()
	if err != nil {
		return nil, err
	}
	cpu, memory := found.CpuStats, found.MemoryStats
	answer := &api.CgroupStats{
		CpuStats: &api.CpuStats{
			CpuUsage: &api.CpuUsage{
				TotalUsage:        cpu.CpuUsage.TotalUsage,
				PercpuUsage:       cpu.CpuUsage.PercpuUsage,
				UsageInKernelmode: cpu.CpuUsage.UsageInKernelmode,
				UsageInUsermode:   cpu.CpuUsage.UsageInUsermode,
			},
			ThrottlingData: &api.ThrottlingData{
				Periods:          cpu.ThrottlingData.Periods,
				ThrottledPeriods: cpu.ThrottlingData.ThrottledPeriods,
				ThrottledTime:    cpu.ThrottlingData.ThrottledTime,
			},
		},
		MemoryStats: &api.MemoryStats{
			Cache:        memory.Cache,
			Usage:        data(memory.Usage),
			SwapUsage:    data(memory.SwapUsage),
			KernelUsage:  data(memory.KernelUsage),
			UseHierarchy: memory.UseHierarchy,
			Stats:        memory.Stats,
		},
		PidsStats:    &api.PidsStats{Current: found.PidsStats.Current, Limit: found.PidsStats.Limit},
		BlkioStats:   blkio(found.BlkioStats),
		HugetlbStats: map[string]*api.HugetlbStats{},
	}
	for size, use := range found.HugetlbStats {
		answer.HugetlbStats[size] = &api.HugetlbStats{Usage: use.Usage, MaxUsage: use.MaxUsage, Failcnt: use.Failcnt}
	}
	return answer, nil
}

func data(m cgroups.MemoryData) *api.MemoryData {
	return &api.MemoryData{Usage: m.Usage, MaxUsage: m.MaxUsage, Failcnt: m.Failcnt, Limit: m.Limit}
}

func blkio(found cgroups.BlkioStats) *api.BlkioStats {
	return &api.BlkioStats{
		IoServiceBytesRecursive: entries(found.IoServiceBytesRecursive),
		IoServicedRecursive:     entries(found.IoServicedRecursive),
		IoQueuedRecursive:       entries(found.IoQueuedRecursive),
		IoServiceTimeRecursive:  entries(found.IoServiceTimeRecursive),
		IoWaitTimeRecursive:     entries(found.IoWaitTimeRecursive),
		IoMergedRecursive:       entries(found.IoMergedRecursive),
		IoTimeRecursive:         entries(found.IoTimeRecursive),
		SectorsRecursive:        entries(found.SectorsRecursive),
	}
}

func entries(found []cgroups.BlkioStatEntry) []*api.BlkioStatsEntry {
	var answer []*api.BlkioStatsEntry
	for _, each := range found {
		answer = append(answer, &api.BlkioStatsEntry{Major: each.Major, Minor: each.Minor, Op: each.Op, Value: each.Value})
	}
	return answer
}
