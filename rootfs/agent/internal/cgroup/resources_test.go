package cgroup

import (
	"slices"
	"testing"

	"github.com/opencontainers/cgroups/devices/config"

	"guestforge.dev/agent/internal/api"
)

func text(rule *config.Rule) string {
	verb := map[bool]string{true: "allow ", false: "deny "}[rule.Allow]
	return verb + rule.CgroupString()
}

func TestRulesGiveNoMoreThanTheSpecSays(t *testing.T) {
	asked := []*api.LinuxDeviceCgroup{
		{Access: "rwm"},
		{Allow: true, Type: "c", Major: 1, Minor: 11, Access: "rw"},
		{Allow: true, Type: "b", Major: 8, Access: "r"},             // 8:0, not all disks
		{Allow: true, Type: "b", Major: 8, Minor: -1},               // all disks
		{Allow: true, Type: "c", Major: -1, Minor: -1, Access: "m"}, // all
		{Type: "c", Major: 10, Access: "rwm"},                       // all of that major: 0 may be none
		{Allow: true, Type: "a", Major: 4, Minor: 5, Access: "rwm"}, // all, as runtimes say it of a privileged container
	}
	devices := []*api.LinuxDevice{{Type: "b", Major: 254, Minor: 16, Path: "/dev/x"}, {Type: "p", Path: "/dev/fifo"}}
	got, err := rules(asked, devices)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, rule := range got[:len(got)-len(always)] {
		said = append(said, text(rule))
	}
	want := []string{
		"deny a *:* rwm", "deny a *:* rwm", "allow c 1:11 rw", "allow b 8:0 r", "allow b 8:* rwm", "allow c *:* m",
		"deny c 10:* rwm", "allow a *:* rwm", "allow b 254:16 rwm",
	}
	if !slices.Equal(said, want) {
		t.Errorf("%q\nnot\n%q", said, want)
	}
}

func TestRulesThatNobodyCanKeepAreRefused(t *testing.T) {
	for _, rule := range []*api.LinuxDeviceCgroup{{Type: "x"}, {Type: "c", Access: "rwx"}} {
		if _, err := rules([]*api.LinuxDeviceCgroup{rule}, nil); err == nil {
			t.Errorf("no error for %v", rule)
		}
	}
}

func TestLimitsAreWhatTheSpecSays(t *testing.T) {
	r, err := resources(&api.Linux{Resources: &api.LinuxResources{
		Memory: &api.LinuxMemory{Limit: 1 << 25, Swap: 1 << 26},
		CPU:    &api.LinuxCPU{Shares: 1024, Quota: 50000, Period: 100000, Cpus: "0"},
		Pids:   &api.LinuxPids{Limit: 77},
	}})
	if err != nil || r.Memory != 1<<25 || r.MemorySwap != 1<<26 || *r.PidsLimit != 77 || r.CpuQuota != 50000 ||
		r.CpuPeriod != 100000 || r.CpusetCpus != "0" || r.CpuWeight == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = resources(nil); err != nil || r.Memory != 0 || r.PidsLimit != nil || len(r.Devices) == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
