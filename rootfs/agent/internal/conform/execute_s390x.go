package conform

import "debug/elf"

const (
	elfMachine        = elf.EM_S390
	elfFlags   uint32 = 0
)

// startCode returns: lghi %r2, 0.
func startCode() []byte {
	return words(0xa7290000)
}

// addAndGoOn returns: aghi %r2, number; jg to the same place, one stride further.
func addAndGoOn(number uint32) []byte {
	jump := append([]byte{0xc0, 0xf4}, words((stride-4)/2)...)
	return append(words(0xa72b0000|number), jump...)
}

// exitCall returns: svc 1.
func exitCall() []byte {
	return []byte{0x0a, 0x01}
}
