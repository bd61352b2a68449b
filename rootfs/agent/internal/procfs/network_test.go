package procfs

import (
	"slices"
	"testing"
)

const head = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
`

func TestInterfacesAreThoseOfTheKernelsTable(t *testing.T) {
	text := head + `    lo:  161     2    0    0    0     0          0         0      161       2    0    0    0     0       0          0
  eth0: 4096    7    1    2    0     0          0         0     8192       9    3    4    0     0       0          0
eth1:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
`
	found, err := parseInterfaces(text)
	want := []Interface{
		{"lo", Traffic{161, 2}, Traffic{161, 2}}, {"eth0", Traffic{4096, 7, 1, 2}, Traffic{8192, 9, 3, 4}},
		{"eth1", Traffic{1, 2, 3, 4, 5, 6, 7, 8}, Traffic{9, 10, 11, 12, 13, 14, 15, 16}},
	}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := parseInterfaces(head); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
	for _, wrong := range []string{"eth0 1 2", "eth0: 1 2", "eth0: x 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
		"eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 x"} {
		if _, err := parseInterfaces(head + wrong); err == nil {
			t.Errorf("%q is an interface", wrong)
		}
	}
	if _, err := Interfaces(); err != nil {
		t.Error(err)
	}
}
