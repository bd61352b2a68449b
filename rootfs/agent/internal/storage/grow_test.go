package storage

import "testing"

func TestTheNumberOfAnIoctlIsTheKernels(t *testing.T) {
	const most, powerpc = 0x80081272, 0x40081272 // BLKGETSIZE64
	for known, want := range map[uint32]uint{most: 0x40086610, powerpc: 0x80086610} {
		if got := writing(known, 'f', 16, 8); got != want {
			t.Errorf("%#x, not %#x", got, want)
		}
	}
}
