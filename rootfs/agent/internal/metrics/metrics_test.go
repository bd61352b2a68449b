package metrics

import (
	"reflect"
	"testing"
)

func TestNamesAreKatas(t *testing.T) {
	for name, want := range map[string]string{
		"MemAvailable": "mem_available", "Active(anon)": "active_anon", "SReclaimable": "s_reclaimable",
		"SwapTotal": "swap_total", "Committed_AS": "committed_as", "DirectMap4k": "direct_map4k", "VmRSS": "vm_rss",
	} {
		if got := snake(name); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
}

func TestMemoryIsInBytes(t *testing.T) {
	got := meminfo("MemTotal:  2 kB\nHugePages_Total: 3\njunk\nBad: x kB\n")
	if want := []figure{{"mem_total", "2048"}, {"huge_pages_total", "3"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestFreePagesOfAllProcessorsAndZonesAreSummedUp(t *testing.T) {
	text := "Node 0, zone DMA32\n  pages free 7\n  pagesets\n    cpu: 0\n              count: 3160\n              high:  4691\n" +
		"    cpu: 1\n              count:    2\nNode 0, zone Movable\n              count: x\n"
	if got := percpuFree(text); got != 3162 {
		t.Error(got)
	}
}
