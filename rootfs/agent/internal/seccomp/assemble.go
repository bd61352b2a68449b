package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// assembler writes a program from its end: whatever an instruction jumps to is there already.
type assembler struct {
	backward []unix.SockFilter
	returns  map[uint32]label // the last instruction that returns a value
}

// label is an instruction, by the number of those that follow it.
type label int

const (
	farthest = 255 // instructions that a conditional jump can leave out
	reuse    = 128 // a return that is further away is written anew: it is no longer than the jump to it
)

func (a *assembler) emit(code uint16, k uint32, yes, no uint8) label {
	a.backward = append(a.backward, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
	return label(len(a.backward) - 1)
}

// between is how many instructions are left out by the next one that is written, if it jumps.
func (a *assembler) between(to label) int { return len(a.backward) - int(to) - 1 }

// load takes a word of seccomp_data, and goes on to what was written last.
func (a *assembler) load(offset uint32) label {
	return a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0)
}

func (a *assembler) and(mask uint32) label {
	return a.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask, 0, 0)
}

func (a *assembler) ret(value uint32) label {
	if known, found := a.returns[value]; found && a.between(known) < reuse {
		return known
	}
	a.returns[value] = a.emit(unix.BPF_RET|unix.BPF_K, value, 0, 0)
	return a.returns[value]
}

// jump goes to one of two places by a comparison. One that is too far away gets a jump without a condition, which takes 32
// bits, right behind this one.
func (a *assembler) jump(comparison uint16, k uint32, yes, no label) label {
	for {
		switch {
		case a.between(yes) > farthest:
			yes = a.emit(unix.BPF_JMP|unix.BPF_JA, uint32(a.between(yes)), 0, 0)
		case a.between(no) > farthest:
			no = a.emit(unix.BPF_JMP|unix.BPF_JA, uint32(a.between(no)), 0, 0)
		default:
			code := unix.BPF_JMP | comparison | unix.BPF_K
			return a.emit(code, k, uint8(a.between(yes)), uint8(a.between(no)))
		}
	}
}

// program returns what was written, in its order.
func (a *assembler) program() []unix.SockFilter {
	forward := slices.Clone(a.backward)
	slices.Reverse(forward)
	return forward
}
