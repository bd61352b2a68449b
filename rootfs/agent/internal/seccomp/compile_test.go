package seccomp

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"guestforge.dev/agent/internal/api"
)

const (
	allow = uint32(unix.SECCOMP_RET_ALLOW)
	eperm = uint32(unix.SECCOMP_RET_ERRNO | 1)
)

func made(t testing.TB, to *target, p *api.LinuxSeccomp) (*Filter, machine) {
	t.Helper()
	filter, err := compile(to, p)
	if err != nil {
		t.Fatal(err)
	}
	return filter, newMachine(t, to, filter)
}

func on(names []string, action string, args ...*api.LinuxSeccompArg) *api.LinuxSyscall {
	return &api.LinuxSyscall{Names: names, Action: action, Args: args}
}

func with(errno uint32, rule *api.LinuxSyscall) *api.LinuxSyscall {
	rule.ErrnoRet = &api.LinuxSyscall_Errnoret{Errnoret: errno}
	return rule
}

func arg(index uint64, op string, values ...uint64) *api.LinuxSeccompArg {
	return &api.LinuxSeccompArg{Index: index, Op: "SCMP_CMP_" + op, Value: values[0], ValueTwo: append(values, 0)[1]}
}

func some(action string, rules ...*api.LinuxSyscall) *api.LinuxSeccomp {
	return &api.LinuxSeccomp{DefaultAction: action, Syscalls: rules}
}

// each runs a test for all targets, with a way to ask for an answer.
func each(t *testing.T, p *api.LinuxSeccomp, test func(t *testing.T, to *target, ask func(name string, args ...uint64) uint32)) {
	t.Helper()
	for name, to := range targets {
		t.Run(name, func(t *testing.T) {
			_, m := made(t, to, p)
			numbers := to.numbers()
			test(t, to, func(name string, args ...uint64) uint32 {
				number, known := numbers[name]
				if !known {
					t.Fatalf("no call %s", name)
				}
				c := call{audit: to.audit, number: number}
				copy(c.arguments[:], args)
				return m.answer(t, c)
			})
		})
	}
}

func expect(t *testing.T, what string, got, want uint32) {
	t.Helper()
	if got != want {
		t.Errorf("%s gets %#x, not %#x", what, got, want)
	}
}

func TestEveryActionIsTheKernels(t *testing.T) {
	const errno = 38
	for name, want := range map[string][2]uint32{ // without an errno, and with one
		"SCMP_ACT_KILL": {0, 0}, "SCMP_ACT_KILL_THREAD": {0, 0}, "SCMP_ACT_KILL_PROCESS": {1 << 31, 1 << 31},
		"SCMP_ACT_TRAP": {0x30000, 0x30000}, "SCMP_ACT_ERRNO": {0x50001, 0x50026}, "SCMP_ACT_TRACE": {0x7ff00001, 0x7ff00026},
		"SCMP_ACT_ALLOW": {0x7fff0000, 0x7fff0000}, "SCMP_ACT_LOG": {0x7ffc0000, 0x7ffc0000},
	} {
		other := "SCMP_ACT_TRAP"
		if name == other {
			other = "SCMP_ACT_LOG"
		}
		rules := []*api.LinuxSyscall{on([]string{"read"}, name), on([]string{"write"}, name)}
		if _, has := numbered[name]; has {
			with(errno, rules[1])
		}
		each(t, some(other, rules...), func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
			expect(t, name, ask("read"), want[0])
			expect(t, name+" with an errno", ask("write"), want[1])
		})
		each(t, some(name, on([]string{"clone3"}, other)), func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
			expect(t, name+" by default", ask("openat"), want[0])
		})
	}
}

func TestAnArgumentHas64Bits(t *testing.T) {
	const high = 5 << 32
	values := []uint64{0, 1, high - 1, high, high + 6, high + 7, high + 8, high + 1<<31, high + 1<<32, 7, 1<<64 - 1, 1 << 63}
	for _, op := range []string{"NE", "LT", "LE", "EQ", "GE", "GT"} {
		condition := arg(3, op, high+7)
		p := some("SCMP_ACT_ALLOW", on([]string{"read"}, "SCMP_ACT_TRAP", condition))
		each(t, p, func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
			for _, value := range values {
				want := allow
				if holds(condition, [6]uint64{3: value}) {
					want = unix.SECCOMP_RET_TRAP
				}
				expect(t, fmt.Sprintf("%s %#x", op, value), ask("read", 0, 0, 0, value), want)
			}
		})
	}
	masked := some("SCMP_ACT_ALLOW", on([]string{"read"}, "SCMP_ACT_TRAP", arg(0, "MASKED_EQ", 0xf0000000f0, 0xa0000000b5)))
	each(t, masked, func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
		expect(t, "what differs outside of the mask", ask("read", 0xafffffffbf), unix.SECCOMP_RET_TRAP)
		expect(t, "what differs in the low half", ask("read", 0xafffffffcf), allow)
		expect(t, "what differs in the high half", ask("read", 0xbfffffffbf), allow)
	})
}

func TestRulesOfOneCall(t *testing.T) {
	names := []string{"read"}
	first := on(names, "SCMP_ACT_TRAP", arg(0, "EQ", 1), arg(1, "EQ", 2))
	second := with(9, on(names, "SCMP_ACT_ERRNO", arg(0, "LE", 1)))
	each(t, some("SCMP_ACT_ALLOW", first, second), func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
		expect(t, "what both rules are for", ask("read", 1, 2), unix.SECCOMP_RET_TRAP)
		expect(t, "what one condition holds for", ask("read", 1, 3), unix.SECCOMP_RET_ERRNO|9)
		expect(t, "what no rule is for", ask("read", 2, 2), allow)
	})
	each(t, some("SCMP_ACT_ALLOW", second, first), func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
		expect(t, "what both rules are for", ask("read", 1, 2), unix.SECCOMP_RET_ERRNO|9)
	})
	whole := on(names, "SCMP_ACT_LOG")
	each(t, some("SCMP_ACT_ALLOW", first, whole, on(names, "SCMP_ACT_TRAP")), func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
		expect(t, "a call with a rule without conditions", ask("read", 1, 2), unix.SECCOMP_RET_LOG)
	})
	each(t, some("SCMP_ACT_LOG", whole, first), func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
		expect(t, "a call with a rule that has the default action", ask("read", 1, 2), unix.SECCOMP_RET_TRAP)
	})
	twice := on(names, "SCMP_ACT_TRAP", arg(0, "EQ", 1), arg(0, "EQ", 5), arg(1, "EQ", 2))
	each(t, some("SCMP_ACT_ALLOW", twice), func(t *testing.T, _ *target, ask func(string, ...uint64) uint32) {
		for _, args := range [][2]uint64{{1, 0}, {5, 0}, {0, 2}} {
			expect(t, fmt.Sprint(args), ask("read", args[0], args[1]), unix.SECCOMP_RET_TRAP)
		}
		expect(t, "neither", ask("read", 2, 1), allow)
	})
}

func TestOtherArchitecturesEndTheProcess(t *testing.T) {
	for name, to := range targets {
		p := some("SCMP_ACT_ALLOW")
		p.Architectures = []string{"SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_S390", "SCMP_ARCH_PPC"}
		_, m := made(t, to, p)
		expect(t, name, m.answer(t, call{audit: to.audit, number: 1}), allow)
		for _, audit := range []uint32{0, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_S390, unix.AUDIT_ARCH_PPC} {
			expect(t, name, m.answer(t, call{audit: audit, number: 1}), 1<<31)
		}
		for _, number := range []uint32{x32Bit, x32Bit + 1, x32Bit + 547, 1<<31 - 1, 1<<32 - 2} {
			want := allow
			if name == "amd64" {
				want = enosys
			}
			expect(t, fmt.Sprint(name, number), m.answer(t, call{audit: to.audit, number: number}), want)
		}
		expect(t, "no call", m.answer(t, call{audit: to.audit, number: noCall}), allow)
	}
}

func TestCallsThatTheProfileCannotKnowAreNotThere(t *testing.T) {
	for _, name := range []string{"SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_LOG"} {
		fallback := actions[name]
		if name == "SCMP_ACT_ERRNO" {
			fallback |= 1
		}
		beyond := enosys
		if name == "SCMP_ACT_LOG" {
			beyond = fallback
		}
		p := some(name, on([]string{"read", "clone3", "no_such_call"}, "SCMP_ACT_ALLOW"))
		each(t, p, func(t *testing.T, to *target, ask func(string, ...uint64) uint32) {
			expect(t, "the last one", ask("clone3"), allow)
			expect(t, "the one before", ask("pidfd_open"), fallback)
			expect(t, "the next one", ask("close_range"), beyond)
			expect(t, "one of the first", ask("openat"), fallback)
			_, m := made(t, to, p)
			expect(t, "a new one", m.answer(t, call{audit: to.audit, number: 900}), beyond)
			if to.zero {
				expect(t, "what the kernel does not know", m.answer(t, call{audit: to.audit}), beyond)
			}
		})
		each(t, some(name), func(t *testing.T, to *target, ask func(string, ...uint64) uint32) {
			expect(t, "a call without a profile", ask("clone3"), fallback)
		})
	}
}

// On two architectures one call does the work of many: what those are denied it must not do for them.
func TestSharedCallsAreNoWayRound(t *testing.T) {
	for _, to := range []*target{&ppc64le, &s390x} {
		numbers := to.numbers()
		ask := func(p *api.LinuxSeccomp, name string, args ...uint64) uint32 {
			_, m := made(t, to, p)
			c := call{audit: to.audit, number: numbers[name]}
			copy(c.arguments[:], args)
			return m.answer(t, c)
		}
		denied := some("SCMP_ACT_ALLOW", on([]string{"socket", "shmat"}, "SCMP_ACT_ERRNO"))
		expect(t, "socket", ask(denied, "socket"), eperm)
		expect(t, "the same by socketcall", ask(denied, "socketcall", 1), eperm)
		expect(t, "the same with bits that the kernel leaves out", ask(denied, "socketcall", 1<<32+1), eperm)
		expect(t, "bind by socketcall", ask(denied, "socketcall", 2), allow)
		expect(t, "shmat by ipc", ask(denied, "ipc", 21), eperm)
		expect(t, "shmat by ipc of another version", ask(denied, "ipc", 1<<16+21), eperm)
		expect(t, "shmdt by ipc", ask(denied, "ipc", 22), allow)
		bySight := some("SCMP_ACT_ALLOW", on([]string{"socket"}, "SCMP_ACT_ERRNO", arg(0, "EQ", unix.AF_VSOCK)))
		expect(t, "what may be denied", ask(bySight, "socketcall", 1), eperm)
		listed := some("SCMP_ACT_ERRNO", on([]string{"socket", "clone3"}, "SCMP_ACT_ALLOW"))
		expect(t, "what is allowed", ask(listed, "socketcall", 1), allow)
		expect(t, "what is not", ask(listed, "socketcall", 2), eperm)
		unseen := some("SCMP_ACT_ERRNO", on([]string{"socket", "clone3"}, "SCMP_ACT_ALLOW", arg(0, "NE", unix.AF_VSOCK)))
		expect(t, "what may not be allowed", ask(unseen, "socketcall", 1), eperm)
		own := some("SCMP_ACT_ALLOW", on([]string{"socket"}, "SCMP_ACT_ERRNO"), on([]string{"socketcall"}, "SCMP_ACT_LOG"))
		expect(t, "a rule of its own", ask(own, "socketcall", 1), unix.SECCOMP_RET_LOG)
	}
}

// large is a profile like those of engines: a list of what is allowed, and some of that by its arguments.
func large(to *target) *api.LinuxSeccomp {
	names := slices.Sorted(maps.Keys(to.numbers()))
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	p := some("SCMP_ACT_ERRNO", on(names[:len(names)*4/5], "SCMP_ACT_ALLOW"))
	for _, value := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff} {
		p.Syscalls = append(p.Syscalls, on([]string{"personality"}, "SCMP_ACT_ALLOW", arg(0, "EQ", value)))
	}
	return p
}

func TestALargeProfileIsQuick(t *testing.T) {
	for name, to := range targets {
		p := large(to)
		filter, _ := made(t, to, p)
		most := 0
		for number := range uint32(512) {
			most = max(most, steps(filter, call{audit: to.audit, number: number}, to.big))
		}
		t.Logf("%s: %d names, %d instructions, at most %d for a call", name, len(p.Syscalls[0].Names), len(filter.program), most)
		if most > 40 {
			t.Errorf("%s: a call takes %d instructions", name, most)
		}
	}
}

func TestJumpsAreAsLongAsTheyMustBe(t *testing.T) {
	for name, to := range targets {
		p := some("SCMP_ACT_ALLOW")
		for i := range 40 { // some 1,500 instructions between the first rules and the default action
			names := []string{"read", "write", "openat", "close"}
			p.Syscalls = append(p.Syscalls, on(names, "SCMP_ACT_TRAP", arg(0, "EQ", uint64(i)), arg(1, "GT", uint64(i))))
		}
		filter, m := made(t, to, p)
		if len(filter.program) < 1000 {
			t.Errorf("only %d instructions: this test shows nothing", len(filter.program))
		}
		expect(t, name+" of another architecture", m.answer(t, call{audit: to.audit + 1}), unix.SECCOMP_RET_KILL_PROCESS)
		numbers := to.numbers()
		for _, called := range []string{"read", "write", "openat", "close", "clone3"} {
			for i := range uint64(41) {
				for _, second := range []uint64{0, i, i + 1} {
					c := call{to.audit, numbers[called], [6]uint64{i, second}}
					expect(t, fmt.Sprint(name, called, i, second), m.answer(t, c), naive(t, to, p, c))
				}
			}
		}
	}
}

// A jump to two places that are so many instructions apart, on either side of the longest one.
func TestTheLongestJumpIsAConditionalOnes(t *testing.T) {
	for distance := range 600 {
		for _, far := range []uint32{1, 2} { // which of the two places is the far one
			a := assembler{returns: map[uint32]label{}}
			places := map[uint32]label{far: a.ret(far)}
			for range distance {
				a.and(0)
			}
			places[3-far] = a.ret(3 - far)
			a.jump(unix.BPF_JEQ, 7, places[1], places[2])
			a.load(numberAt)
			m := newMachine(t, &amd64, &Filter{program: a.program()})
			expect(t, fmt.Sprint("yes, over ", distance), m.answer(t, call{number: 7}), 1)
			expect(t, fmt.Sprint("no, over ", distance), m.answer(t, call{number: 8}), 2)
		}
	}
}

func TestTheStricterActionIsTheKernels(t *testing.T) {
	inOrder := []string{"KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "LOG", "ALLOW"} // seccomp(2)
	for i, name := range inOrder {
		for _, other := range inOrder[i:] {
			a, b := actions["SCMP_ACT_"+name]|9, actions["SCMP_ACT_"+other]
			if stricter(a, b) != a || name != other && stricter(b, a) != a {
				t.Errorf("%s is not stricter than %s", name, other)
			}
		}
	}
}

func randomProfile(random *rand.Rand, names []string) *api.LinuxSeccomp {
	kinds := slices.Sorted(maps.Keys(actions))
	p := some(kinds[random.IntN(len(kinds))])
	for range random.IntN(12) {
		rule := &api.LinuxSyscall{Action: kinds[random.IntN(len(kinds))]}
		for range 1 + random.IntN(6) {
			rule.Names = append(rule.Names, names[random.IntN(len(names))])
		}
		if highest, has := numbered[rule.Action]; has && random.IntN(2) == 0 {
			with(random.Uint32N(highest+1), rule)
		}
		for range max(0, random.IntN(6)-2) {
			op := comparisons[random.IntN(len(comparisons))]
			rule.Args = append(rule.Args, &api.LinuxSeccompArg{
				Index: random.Uint64N(6), Op: op, Value: number64(random), ValueTwo: number64(random),
			})
		}
		p.Syscalls = append(p.Syscalls, rule)
	}
	return p
}

// number64 returns one of few numbers, so that conditions come to hold.
func number64(random *rand.Rand) uint64 {
	halves := []uint64{0, 1, 2, 1 << 31, 1<<32 - 1}
	return halves[random.IntN(len(halves))]<<32 | halves[random.IntN(len(halves))]
}

// Names of few calls, so that a profile has several rules for one.
var fewNames = []string{
	"read", "write", "openat", "close", "clone3", "socket", "bind", "socketcall", "ipc", "shmat", "semop", "mknod", "kexec_load",
	"close_range", "mseal", "no_such_call", "exit_group", "personality",
}

func compareWithNaive(t *testing.T, seed uint64) {
	for name, to := range targets {
		random := rand.New(rand.NewPCG(seed, 7))
		p := randomProfile(random, fewNames)
		_, m := made(t, to, p)
		numbers := to.numbers()
		for range 60 {
			c := call{audit: to.audit, number: numbers[fewNames[random.IntN(len(fewNames))]]}
			switch random.IntN(8) {
			case 0:
				c.number = []uint32{0, 1, 470, 600, x32Bit, x32Bit + 3, noCall, noCall - 1}[random.IntN(8)]
			case 1:
				c.number = random.Uint32N(480)
			}
			for i := range c.arguments {
				c.arguments[i] = number64(random)
			}
			if random.IntN(3) == 0 {
				c.arguments[0] = random.Uint64N(26)
			}
			if got, want := m.answer(t, c), naive(t, to, p, c); got != want {
				t.Fatalf("%s, seed %d: %+v gets %#x, not %#x, of %v", name, seed, c, got, want, p)
			}
		}
	}
}

func TestRandomProfilesSayWhatTheirRulesSay(t *testing.T) {
	for seed := range uint64(200) {
		compareWithNaive(t, seed)
	}
}

func FuzzRules(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(compareWithNaive)
}

// FuzzCompile gives it any message: it says no, or makes a program that the kernel would take.
func FuzzCompile(f *testing.F) {
	seed, err := proto.Marshal(some("SCMP_ACT_ALLOW", on([]string{"read"}, "SCMP_ACT_TRAP", arg(0, "EQ", 1))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &api.LinuxSeccomp{}
		if proto.Unmarshal(data, p) != nil {
			return
		}
		for _, to := range targets {
			if filter, err := compile(to, p); err == nil {
				newMachine(t, to, filter)
			}
		}
	})
}
