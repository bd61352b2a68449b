package conform

import "debug/elf"

const (
	elfMachine        = elf.EM_X86_64
	elfFlags   uint32 = 0
)

// startCode returns: xor %edi,%edi.
func startCode() []byte {
	return []byte{0x31, 0xff}
}

// addAndGoOn returns: add $number,%edi; jmp to the same place, one stride further.
func addAndGoOn(number uint32) []byte {
	const addSize, jumpSize = 6, 5
	add := append([]byte{0x81, 0xc7}, words(number)...)
	return append(append(add, 0xe9), words(stride-addSize-jumpSize)...)
}

// exitCall returns: mov $60,%eax; syscall.
func exitCall() []byte {
	return []byte{0xb8, 60, 0, 0, 0, 0x0f, 0x05}
}
