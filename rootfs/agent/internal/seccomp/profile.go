// Package seccomp makes a filter of system calls, as the OCI specification has it, a program for the kernel.
//
// What a call gets is decided so, which is what libseccomp makes of the same profile wherever that says:
//
//   - A rule without conditions is for every call of its name, whatever other rules that name has; of several the first.
//   - Else the first rule, in the profile's order, all of whose conditions hold. Where two of them are of one argument, each is
//     a rule of its own, as in runc.
//   - Else the default action. A rule that has this action anyway is left out before all that.
//
// A call that a profile can't know, for its number is higher than any that it names, gets ENOSYS where the default action
// forbids: programs try newer calls, and fall back to older ones at that answer alone.
//
// https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp
package seccomp

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
)

// Bounds of a profile; engines' own have some 50 rules with 450 names. No program has room for more conditions.
const (
	maxRules      = 1024
	maxNames      = 8192
	maxName       = 64 // bytes
	maxConditions = maxProgram / 4
	maxArguments  = 6
)

// The actions: what a filter returns for each.
var actions = map[string]uint32{
	"SCMP_ACT_KILL":         unix.SECCOMP_RET_KILL_THREAD,
	"SCMP_ACT_KILL_THREAD":  unix.SECCOMP_RET_KILL_THREAD,
	"SCMP_ACT_KILL_PROCESS": unix.SECCOMP_RET_KILL_PROCESS,
	"SCMP_ACT_TRAP":         unix.SECCOMP_RET_TRAP,
	"SCMP_ACT_ERRNO":        unix.SECCOMP_RET_ERRNO,
	"SCMP_ACT_TRACE":        unix.SECCOMP_RET_TRACE,
	"SCMP_ACT_LOG":          unix.SECCOMP_RET_LOG,
	"SCMP_ACT_ALLOW":        unix.SECCOMP_RET_ALLOW,
}

// The actions that have a number with them, and the highest: the kernel's MAX_ERRNO, and what fits.
var numbered = map[string]uint32{"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": unix.SECCOMP_RET_DATA}

const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

var comparisons = []string{
	"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ",
}

// The architectures that a profile may name. Ours is always among them, and this kernel runs no programs of another.
var architectures = strings.Fields(`X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64
	MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64 SH SHEB`)

// The flags. TSYNC is for a process of several threads, of which the program that comes has none yet.
var flags = map[string]uint{
	"SECCOMP_FILTER_FLAG_TSYNC": 0, "SECCOMP_FILTER_FLAG_LOG": unix.SECCOMP_FILTER_FLAG_LOG,
	"SECCOMP_FILTER_FLAG_SPEC_ALLOW": unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
}

// rule is what one rule of the profile says of one system call.
type rule struct {
	action     uint32
	conditions []*api.LinuxSeccompArg // all of them hold
}

// profile is a profile for one target.
type profile struct {
	fallback uint32            // the default action
	rules    map[uint32][]rule // by the calls' numbers
	last     uint32            // the highest number that it names
	named    bool              // it names some
}

// empty tells whether a profile asks for nothing, as runc sees it.
func empty(p *api.LinuxSeccomp) bool { return p.GetDefaultAction() == "" && len(p.GetSyscalls()) == 0 }

// check returns an error for a profile that is malformed, or asks for what is not served.
func check(p *api.LinuxSeccomp) error {
	if _, err := action("DefaultAction", p.DefaultAction, nil); err != nil {
		return err
	}
	for _, name := range p.Architectures {
		if short, found := strings.CutPrefix(name, "SCMP_ARCH_"); !found || !slices.Contains(architectures, short) {
			return invalid("Architectures", "no such architecture: %.100q", name)
		}
	}
	if _, err := flagBits(p.Flags); err != nil {
		return err
	}
	if len(p.Syscalls) > maxRules {
		return invalid("Syscalls", "%d rules, at most %d", len(p.Syscalls), maxRules)
	}
	names := 0
	for i, call := range p.Syscalls {
		names += len(call.Names)
		if err := checkRule(fmt.Sprintf("Syscalls[%d].", i), call); err != nil {
			return err
		}
	}
	if names > maxNames {
		return invalid("Syscalls", "%d names, at most %d", names, maxNames)
	}
	return nil
}

func checkRule(field string, call *api.LinuxSyscall) error {
	if _, err := action(field+"Action", call.Action, call); err != nil {
		return err
	}
	if len(call.Names) == 0 {
		return invalid(field+"Names", "a rule for no system call")
	}
	for _, name := range call.Names {
		if name == "" || len(name) > maxName {
			return invalid(field+"Names", "not a name: %.100q", name)
		}
	}
	for i, arg := range call.Args {
		if arg.Index >= maxArguments {
			return invalid(fmt.Sprintf("%sArgs[%d].Index", field, i), "%d, at most %d", arg.Index, maxArguments-1)
		}
		if !slices.Contains(comparisons, arg.Op) {
			return invalid(fmt.Sprintf("%sArgs[%d].Op", field, i), "no such comparison: %.100q", arg.Op)
		}
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return fault.Invalid("Linux.Seccomp.%s: %s", field, fmt.Sprintf(format, args...))
}

// action returns what a filter returns for an action and its errno; the default action has no call, and no errno.
func action(field, name string, call *api.LinuxSyscall) (uint32, error) {
	value, known := actions[name]
	if name == "SCMP_ACT_NOTIFY" {
		return 0, fault.Unimplemented("Linux.Seccomp.%s: %s, for no supervisor of the host's could answer in the guest", field, name)
	}
	if !known {
		return 0, invalid(field, "no such action: %.100q", name)
	}
	highest, has := numbered[name]
	errno := uint32(unix.EPERM)
	if call.GetErrnoRet() != nil {
		errno = call.GetErrnoret()
	}
	switch {
	case has && errno > highest:
		return 0, invalid(field, "%s with %d, at most %d", name, errno, highest)
	case has:
		return value | errno, nil
	case call.GetErrnoret() != 0: // 0 may be what a runtime has for none
		return 0, invalid(field, "%s with an errno, of which it has none", name)
	}
	return value, nil
}

func flagBits(names []string) (bits uint, err error) {
	for _, name := range names {
		bit, known := flags[name]
		if name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
			return 0, fault.Unimplemented("Linux.Seccomp.Flags: %s, which is of SCMP_ACT_NOTIFY", name)
		}
		if !known {
			return 0, invalid("Flags", "no such flag: %.100q", name)
		}
		bits |= bit
	}
	return bits, nil
}

// read returns a checked profile for a target. Names that it does not have are those of other architectures.
func read(t *target, p *api.LinuxSeccomp) (*profile, error) {
	fallback, err := action("DefaultAction", p.DefaultAction, nil)
	if err != nil {
		return nil, err
	}
	result, numbers, byName := &profile{fallback: fallback}, t.numbers(), map[string][]rule{}
	ways := map[string]part{}
	if t.shared {
		ways = parts()
	}
	conditions := 0
	for i, call := range p.Syscalls {
		value, err := action(fmt.Sprintf("Syscalls[%d].Action", i), call.Action, call)
		if err != nil {
			return nil, err
		}
		rules := split(value, call.Args)
		for _, name := range call.Names {
			number, known := numbers[name]
			if known {
				result.last, result.named = max(result.last, number), true
			}
			if _, shared := ways[name]; value == fallback || !known && !shared {
				continue
			}
			if conditions += len(call.Args); conditions > maxConditions {
				return nil, invalid("Syscalls", "more than %d conditions", maxConditions)
			}
			byName[name] = append(byName[name], rules...)
		}
	}
	share(byName, ways, fallback)
	result.rules = map[uint32][]rule{}
	for name, rules := range byName {
		if number, known := numbers[name]; known {
			result.rules[number] = decisive(rules)
		}
	}
	return result, nil
}

// split returns a rule, or one for each condition where two are of the same argument.
func split(action uint32, conditions []*api.LinuxSeccompArg) (rules []rule) {
	seen := map[uint64]bool{}
	for _, each := range conditions {
		seen[each.Index] = true
	}
	if len(seen) == len(conditions) {
		return []rule{{action, conditions}}
	}
	for i := range conditions {
		rules = append(rules, rule{action, conditions[i : i+1]})
	}
	return rules
}

// decisive returns those of a call's rules that a call can get to.
func decisive(rules []rule) []rule {
	if i := slices.IndexFunc(rules, func(r rule) bool { return len(r.conditions) == 0 }); i >= 0 {
		return rules[i : i+1]
	}
	return rules
}

// share has the rules of a call hold for the same call by way of socketcall(2) or ipc(2), after the rules which those have of
// their own. Arguments can't be seen there, for they are in memory: where rules have conditions, the strictest action is
// the one.
func share(byName map[string][]rule, ways map[string]part, fallback uint32) {
	for _, name := range slices.Sorted(maps.Keys(ways)) {
		rules := decisive(byName[name])
		if len(rules) == 0 {
			continue
		}
		strictest := rules[0].action
		if len(rules[0].conditions) > 0 {
			strictest = fallback
			for _, each := range rules {
				strictest = stricter(strictest, each.action)
			}
		}
		way := ways[name]
		condition := &api.LinuxSeccompArg{Op: "SCMP_CMP_MASKED_EQ", Value: way.mask, ValueTwo: way.code}
		byName[way.call] = append(byName[way.call], rule{strictest, []*api.LinuxSeccompArg{condition}})
	}
}

// stricter returns the action that the kernel would prefer if two filters had one each: the lower one as a signed number.
func stricter(a, b uint32) uint32 {
	if int32(a&unix.SECCOMP_RET_ACTION_FULL) <= int32(b&unix.SECCOMP_RET_ACTION_FULL) {
		return a
	}
	return b
}
