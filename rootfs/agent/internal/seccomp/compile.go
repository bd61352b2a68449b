package seccomp

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
)

const maxProgram = 4096 // instructions: the kernel's BPF_MAXINSNS

// Words of struct seccomp_data (include/uapi/linux/seccomp.h).
const (
	numberAt    = 0
	archAt      = 4
	argumentsAt = 16
)

// Filter is a program for the kernel.
type Filter struct {
	program []unix.SockFilter
	flags   uint
}

// Compile returns the filter of a profile for the architecture that this program runs on, or nil for a profile that asks for
// nothing.
func Compile(p *api.LinuxSeccomp) (*Filter, error) {
	if empty(p) {
		return nil, nil
	}
	return compile(native, p)
}

func compile(t *target, p *api.LinuxSeccomp) (*Filter, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	read, err := read(t, p)
	if err != nil {
		return nil, err
	}
	c := compiler{t, read, assembler{returns: map[uint32]label{}}}
	program := c.compile()
	if len(program) > maxProgram {
		return nil, invalid("Syscalls", "a program of %d instructions, at most %d", len(program), maxProgram)
	}
	bits, err := flagBits(p.Flags)
	return &Filter{program, bits}, err
}

type compiler struct {
	*target
	*profile
	assembler
}

// compile writes: the right architecture, or the end of the process; the call's number; a search for it.
func (c *compiler) compile() []unix.SockFilter {
	kill := c.ret(unix.SECCOMP_RET_KILL_PROCESS)
	c.search(c.spans())
	search := c.load(numberAt)
	c.jump(unix.BPF_JEQ, c.audit, search, kill)
	c.load(archAt)
	return c.program()
}

// span is the numbers from one to that of the next span, which have the same rules.
type span struct {
	first    uint32
	rules    []rule // in whose order the first that holds is the one
	fallback uint32
}

// plain tells whether all calls get the same answer, and which.
func (s span) plain() (uint32, bool) {
	switch {
	case len(s.rules) == 0:
		return s.fallback, true
	case len(s.rules[0].conditions) == 0:
		return s.rules[0].action, true
	}
	return 0, false
}

// spans returns the spans of all numbers, neighbours with the same answer as one.
func (c *compiler) spans() (all []span) {
	firsts := map[uint32]bool{0: true, 1: true, x32Bit: true, noCall: true}
	for number := range c.rules {
		firsts[number], firsts[number+1] = true, true
	}
	firsts[c.last+1] = true
	for _, first := range slices.Sorted(maps.Keys(firsts)) {
		next := span{first, c.rules[first], c.unruled(first)}
		if len(all) > 0 {
			before, same := all[len(all)-1].plain()
			if answer, plain := next.plain(); same && plain && before == answer {
				continue
			}
		}
		all = append(all, next)
	}
	return all
}

// unruled returns the answer to a number of which no rule holds.
func (c *compiler) unruled(number uint32) uint32 {
	if c.x32 && number >= x32Bit && number != noCall {
		return enosys // what the kernel would say, which has no such ABI
	}
	switch c.fallback & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return c.fallback
	}
	if c.named && number > c.last || c.zero && number == 0 {
		return enosys
	}
	return c.fallback
}

// search halves the spans, for each call makes few comparisons then.
func (c *compiler) search(spans []span) label {
	if len(spans) == 1 {
		return c.decide(spans[0])
	}
	middle := len(spans) / 2
	above := c.search(spans[middle:])
	below := c.search(spans[:middle])
	return c.jump(unix.BPF_JGE, spans[middle].first, above, below)
}

// decide goes through the rules of a call.
func (c *compiler) decide(s span) label {
	if answer, plain := s.plain(); plain {
		return c.ret(answer)
	}
	next := c.ret(s.fallback)
	for _, each := range slices.Backward(s.rules) {
		holds := c.ret(each.action)
		for _, condition := range slices.Backward(each.conditions) {
			holds = c.condition(condition, holds, next)
		}
		next = holds
	}
	return next
}

// condition compares an argument of 64 bits by its halves, the high one first.
func (c *compiler) condition(arg *api.LinuxSeccompArg, yes, no label) label {
	low := uint32(argumentsAt + 8*arg.Index)
	high := low + 4
	if c.big {
		low, high = high, low
	}
	switch arg.Op {
	case "SCMP_CMP_NE":
		return c.equal(arg.Value, low, high, no, yes)
	case "SCMP_CMP_EQ":
		return c.equal(arg.Value, low, high, yes, no)
	case "SCMP_CMP_GT":
		return c.above(unix.BPF_JGT, arg.Value, low, high, yes, no)
	case "SCMP_CMP_GE":
		return c.above(unix.BPF_JGE, arg.Value, low, high, yes, no)
	case "SCMP_CMP_LE":
		return c.above(unix.BPF_JGT, arg.Value, low, high, no, yes)
	case "SCMP_CMP_LT":
		return c.above(unix.BPF_JGE, arg.Value, low, high, no, yes)
	}
	return c.masked(arg.Value, arg.ValueTwo&arg.Value, low, high, yes, no)
}

func (c *compiler) equal(value uint64, low, high uint32, yes, no label) label {
	c.jump(unix.BPF_JEQ, uint32(value), yes, no)
	rest := c.load(low)
	c.jump(unix.BPF_JEQ, uint32(value>>32), rest, no)
	return c.load(high)
}

// above compares the low halves, by JGT or JGE, only where the high ones are equal.
func (c *compiler) above(comparison uint16, value uint64, low, high uint32, yes, no label) label {
	c.jump(comparison, uint32(value), yes, no)
	rest := c.load(low)
	equal := c.jump(unix.BPF_JEQ, uint32(value>>32), rest, no)
	c.jump(unix.BPF_JGT, uint32(value>>32), yes, equal)
	return c.load(high)
}

func (c *compiler) masked(mask, value uint64, low, high uint32, yes, no label) label {
	c.jump(unix.BPF_JEQ, uint32(value), yes, no)
	c.and(uint32(mask))
	rest := c.load(low)
	c.jump(unix.BPF_JEQ, uint32(value>>32), rest, no)
	c.and(uint32(mask >> 32))
	return c.load(high)
}
