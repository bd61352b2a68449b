package conform

import "debug/elf"

const (
	elfMachine        = elf.EM_PPC64
	elfFlags   uint32 = 2 // ELFv2: the entry is the code
)

// startCode returns: li r3, 0.
func startCode() []byte {
	return words(0x38600000)
}

// addAndGoOn returns: addi r3, r3, number; b to the same place, one stride further.
func addAndGoOn(number uint32) []byte {
	return words(0x38630000|number, 0x48000000|(stride-4))
}

// exitCall returns: li r0, 1; sc.
func exitCall() []byte {
	return words(0x38000001, 0x44000002)
}
