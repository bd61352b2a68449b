package seccomp

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
)

var targets = map[string]*target{"amd64": &amd64, "arm64": &arm64, "ppc64le": &ppc64le, "s390x": &s390x}

var numbersOf = func() map[*target]map[string]uint32 {
	all := map[*target]map[string]uint32{}
	for _, to := range targets {
		all[to] = to.numbers()
	}
	return all
}()

// call is what a filter sees of a system call.
type call struct {
	audit, number uint32
	arguments     [6]uint64
}

// words returns struct seccomp_data as words of 32 bits, which are all that a filter may load: within an argument the order
// is the architecture's.
func (c call) words(big bool) []uint32 {
	words := []uint32{c.number, c.audit, 0xdeadbeef, 0xfeedface} // the instruction pointer is of no use
	for _, value := range c.arguments {
		low, high := uint32(value), uint32(value>>32)
		if big {
			low, high = high, low
		}
		words = append(words, low, high)
	}
	return words
}

// machine runs a filter. It is golang.org/x/net's interpreter of BPF, which reads words in the order of the network: it gets
// each word of seccomp_data so, and has it as a number of 32 bits, as the kernel has.
type machine struct {
	vm  *bpf.VM
	big bool
}

func newMachine(t testing.TB, to *target, filter *Filter) machine {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(filter.program))
	for i, each := range filter.program {
		raw[i] = bpf.RawInstruction{Op: each.Code, Jt: each.Jt, Jf: each.Jf, K: each.K}
	}
	instructions, known := bpf.Disassemble(raw)
	if !known {
		t.Fatal("not all instructions are BPF's")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm, to.big}
}

func (m machine) answer(t testing.TB, c call) uint32 {
	t.Helper()
	var data []byte
	for _, word := range c.words(m.big) {
		data = binary.BigEndian.AppendUint32(data, word)
	}
	result, err := m.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(result)
}

// steps is how many instructions a call takes.
func steps(filter *Filter, c call, big bool) (count int) {
	var a uint32
	for at := 0; ; at++ {
		count++
		switch each := filter.program[at]; each.Code {
		case unix.BPF_RET | unix.BPF_K:
			return count
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = c.words(big)[each.K/4]
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= each.K
		case unix.BPF_JMP | unix.BPF_JA:
			at += int(each.K)
		default:
			holds := map[uint16]bool{unix.BPF_JEQ: a == each.K, unix.BPF_JGE: a >= each.K, unix.BPF_JGT: a > each.K}
			if holds[each.Code&0xf0] {
				at += int(each.Jt)
			} else {
				at += int(each.Jf)
			}
		}
	}
}

// holds is a condition, in numbers of 64 bits.
func holds(arg *api.LinuxSeccompArg, arguments [6]uint64) bool {
	value := arguments[arg.Index]
	return map[string]bool{
		"SCMP_CMP_NE": value != arg.Value, "SCMP_CMP_LT": value < arg.Value, "SCMP_CMP_LE": value <= arg.Value,
		"SCMP_CMP_EQ": value == arg.Value, "SCMP_CMP_GE": value >= arg.Value, "SCMP_CMP_GT": value > arg.Value,
		"SCMP_CMP_MASKED_EQ": value&arg.Value == arg.ValueTwo&arg.Value,
	}[arg.Op]
}

// matches tells whether a rule's conditions hold: all, or one of them where two are of the same argument.
func matches(rule *api.LinuxSyscall, arguments [6]uint64) bool {
	count, indexes := 0, map[uint64]bool{}
	for _, each := range rule.Args {
		if indexes[each.Index] = true; holds(each, arguments) {
			count++
		}
	}
	if len(indexes) < len(rule.Args) {
		return count > 0
	}
	return count == len(rule.Args)
}

// naive is what the profile says of a call, read rule by rule.
func naive(t testing.TB, to *target, p *api.LinuxSeccomp, c call) uint32 {
	t.Helper()
	if c.audit != to.audit {
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	numbers, called, last := numbersOf[to], "", -1
	for name, number := range numbers {
		if number == c.number {
			called = name
		}
	}
	fallback, err := action("", p.DefaultAction, nil)
	if err != nil {
		t.Fatal(err)
	}
	var inner string // what a shared call is told to do
	for name, way := range parts() {
		if to.shared && way.call == called && c.arguments[0]&way.mask == way.code {
			inner = name
		}
	}
	answers, first, found := map[bool]uint32{}, uint32(0), false // of rules without conditions, or with some that hold
	strictest, some := fallback, false
	var whole *uint32
	for _, rule := range p.Syscalls {
		value, err := action("", rule.Action, rule)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range rule.Names {
			if number, known := numbers[name]; known {
				last = max(last, int(number))
			}
			if value == fallback {
				continue
			}
			if _, before := answers[len(rule.Args) > 0]; name == called && !before && matches(rule, c.arguments) {
				answers[len(rule.Args) > 0] = value
			}
			if name == inner && len(rule.Args) == 0 && whole == nil {
				whole = &value
			}
			if name == inner {
				strictest, some = stricter(strictest, value), true
			}
		}
	}
	if first, found = answers[false]; found {
		return first
	}
	if first, found = answers[true]; found {
		return first
	}
	if whole != nil {
		return *whole
	}
	if some {
		return strictest
	}
	if to.x32 && c.number >= 1<<30 && c.number != 1<<32-1 {
		return enosys
	}
	allows := map[string]bool{"SCMP_ACT_ALLOW": true, "SCMP_ACT_LOG": true, "SCMP_ACT_TRACE": true}[p.DefaultAction]
	if !allows && (last >= 0 && int64(c.number) > int64(last) || to.zero && c.number == 0) {
		return enosys
	}
	return fallback
}
