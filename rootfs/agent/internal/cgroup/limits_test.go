package cgroup

import (
	"testing"

	"guestforge.dev/agent/internal/api"
)

func TestLimitsOfHugePagesThatNobodyCanHaveAreLeftOut(t *testing.T) {
	asked := []*api.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB"}, {Pagesize: "64KB", Limit: 1}}
	got, err := hugePages(asked, []string{"2MB", "64KB"})
	if err != nil || len(got) != 2 || got[0].Pagesize != "2MB" || got[0].Limit != 4<<20 || got[1].Pagesize != "64KB" {
		t.Errorf("%v, %v", got, err)
	}
	for _, size := range []string{"", "MB", "2", "2mb", "2MB/../x", "../2MB"} {
		if got, err := hugePages([]*api.LinuxHugepageLimit{{Pagesize: size}}, []string{size}); err == nil {
			t.Errorf("%q: %v", size, got)
		}
	}
}

func TestALimitOfSwapSpaceGoesWithOneOfMemory(t *testing.T) {
	for _, test := range []struct {
		memory *api.LinuxMemory
		taken  bool
	}{
		{&api.LinuxMemory{Limit: 10, Swap: 10}, true},
		{&api.LinuxMemory{Limit: 10, Swap: 15}, true},
		{&api.LinuxMemory{Limit: 10, Swap: -1}, true},
		{&api.LinuxMemory{Limit: 10, Swap: 9}, false}, // it counts memory too
		{&api.LinuxMemory{Swap: 15}, false},
	} {
		r, err := resources(&api.Linux{Resources: &api.LinuxResources{Memory: test.memory}})
		if (err == nil) != test.taken || err == nil && r.MemorySwap != test.memory.Swap {
			t.Errorf("%v: %v", test.memory, err)
		}
	}
}
