package cgroup

import (
	"testing"

	"github.com/opencontainers/cgroups"

	"guestforge.dev/agent/internal/api"
)

func TestLimitsOfBlockIOAreThoseOfTheSpec(t *testing.T) {
	limit := func(minor int64, rate uint64) []*api.LinuxThrottleDevice {
		return []*api.LinuxThrottleDevice{{Major: 254, Minor: minor, Rate: rate}}
	}
	r, err := resources(&api.Linux{Resources: &api.LinuxResources{BlockIO: &api.LinuxBlockIO{
		ThrottleReadBpsDevice: limit(0, 1000), ThrottleWriteBpsDevice: limit(16, 2000),
		ThrottleReadIOPSDevice: limit(32, 30), ThrottleWriteIOPSDevice: limit(48, 0),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		got  []*cgroups.ThrottleDevice
		name string
		want string
	}{
		{r.BlkioThrottleReadBpsDevice, "rbps", "254:0 rbps=1000"},
		{r.BlkioThrottleWriteBpsDevice, "wbps", "254:16 wbps=2000"},
		{r.BlkioThrottleReadIOPSDevice, "riops", "254:32 riops=30"},
		{r.BlkioThrottleWriteIOPSDevice, "wiops", "254:48 wiops=18446744073709551615"}, // none
	} {
		if len(test.got) != 1 || test.got[0].StringName(test.name) != test.want {
			t.Errorf("%v, not %s", test.got, test.want)
		}
	}
}

// The host that this runs on has no cgroup of ours, and so none that has a weight.
func TestAWeightIsLeftOutWhereTheKernelHasNone(t *testing.T) {
	for _, test := range []struct {
		weight, leaf uint32
		refused      bool
	}{{10, 0, false}, {1000, 500, false}, {0, 500, false}, {9, 0, true}, {1001, 0, true}, {1 << 17, 0, true}} {
		for _, asked := range []*api.LinuxBlockIO{
			{Weight: test.weight, LeafWeight: test.leaf},
			{WeightDevice: []*api.LinuxWeightDevice{{Major: 254, Weight: test.weight, LeafWeight: test.leaf}}},
		} {
			r, err := resources(&api.Linux{Resources: &api.LinuxResources{BlockIO: asked}})
			if (err != nil) != test.refused {
				t.Errorf("%v: %v", asked, err)
			}
			if err == nil && (r.BlkioWeight != 0 || len(r.BlkioWeightDevice) > 0) {
				t.Errorf("%v: %+v", asked, r)
			}
		}
	}
}
