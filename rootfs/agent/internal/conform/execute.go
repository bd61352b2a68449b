package conform

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

const (
	runsOfACase = 60
	batch       = 16 // programs that are there at once
	headerSize  = 64
	segmentSize = 56
	codePlace   = 0x10000000 // a multiple of every page size
	codeOffset  = 4096
	stride      = 4096 // bytes from one piece of code to the next
	pieces      = 64
	runnable    = 0o755
)

var executeCases = []Case{
	{"programs-that-come-and-go", func(dir string) error { return Execute(dir, runsOfACase) }},
}

// Execute makes programs, runs each and removes it. All lie at the same address and differ in nothing but the numbers
// that they add up, one on each of their pages, and exit with. None is in the page cache when it is run: so the storage
// fills memory that one before has left, and an emulator that does not see that adds up some of the numbers of that one.
func Execute(dir string, runs int) error {
	for n := 0; n < runs; n += batch {
		last := min(n+batch, runs)
		for i := n; i < last; i++ {
			if err := makeProgram(programPath(dir, i), numbers(i)); err != nil {
				return err
			}
		}
		for i := n; i < last; i++ {
			if err := runProgram(programPath(dir, i), numbers(i)); err != nil {
				return fmt.Errorf("program %d of %d: %w", i+1, runs, err)
			}
		}
	}
	return nil
}

func programPath(dir string, n int) string {
	return fmt.Sprintf("%s/%d", dir, n)
}

// numbers returns what the n-th program adds up: on no page the same as the one before.
func numbers(n int) []uint32 {
	out := make([]uint32, pieces)
	for i := range out {
		out[i] = uint32(n*(i+1)+i) % 251
	}
	return out
}

func makeProgram(path string, add []uint32) error {
	if err := os.WriteFile(path, addingProgram(add), runnable); err != nil {
		return err
	}
	return opened(path, unix.O_RDONLY, 0, func(fd int) error {
		return first(unix.Fsync(fd), unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED))
	})
}

func runProgram(path string, add []uint32) error {
	right := 0
	for _, number := range add {
		right = (right + int(number)) % 256
	}
	got, err := exitCode(path)
	return first(err, unix.Unlink(path), want(got == right, "it said %d instead of %d", got, right))
}

func exitCode(program string) (int, error) {
	err := exec.Command(program).Run()
	var ended *exec.ExitError
	if err == nil {
		return 0, nil
	}
	if errors.As(err, &ended) && ended.Exited() {
		return ended.ExitCode(), nil
	}
	return 0, err
}

// addingProgram returns a static ELF program that exits with the sum of numbers below 256, modulo 256.
func addingProgram(add []uint32) []byte {
	const alignment = 0x10000
	text := codeOffset + len(startCode()) // where the first number is added
	image := make([]byte, codeOffset+stride*(len(add)+1))
	var headers bytes.Buffer
	// neither can fail: both have a fixed size
	binary.Write(&headers, binary.NativeEndian, elf.Header64{
		Ident:     [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byteOrder(), byte(elf.EV_CURRENT)},
		Type:      uint16(elf.ET_EXEC),
		Machine:   uint16(elfMachine),
		Version:   uint32(elf.EV_CURRENT),
		Entry:     codePlace + codeOffset,
		Phoff:     headerSize,
		Flags:     elfFlags,
		Ehsize:    headerSize,
		Phentsize: segmentSize,
		Phnum:     1,
	})
	binary.Write(&headers, binary.NativeEndian, elf.Prog64{
		Type:   uint32(elf.PT_LOAD),
		Flags:  uint32(elf.PF_R | elf.PF_X),
		Vaddr:  codePlace,
		Paddr:  codePlace,
		Filesz: uint64(len(image)),
		Memsz:  uint64(len(image)),
		Align:  alignment,
	})
	copy(image, headers.Bytes())
	copy(image[codeOffset:], startCode())
	for i, number := range add {
		copy(image[text+stride*i:], addAndGoOn(number))
	}
	copy(image[text+stride*len(add):], exitCall())
	return image
}

func byteOrder() byte {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return byte(elf.ELFDATA2LSB)
	}
	return byte(elf.ELFDATA2MSB)
}

// words returns instructions of 32 bits in the order of this machine's bytes.
func words(instructions ...uint32) []byte {
	var out []byte
	for _, one := range instructions {
		out = binary.NativeEndian.AppendUint32(out, one)
	}
	return out
}
