package shim

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/seccomp"
)

// The capabilities in the order of their numbers (include/uapi/linux/capability.h).
var capabilities = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
	SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
	AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
	CHECKPOINT_RESTORE`)

// Check returns an error for a process whose fields restrict would reject, or that has no program.
func Check(process *api.Process) error {
	if process == nil || len(process.Args) == 0 || process.Args[0] == "" {
		return fault.Invalid("a process without a program")
	}
	for _, limit := range process.Rlimits {
		if err := checkLimit(limit); err != nil {
			return err
		}
	}
	_, err := capabilitySets(process)
	return err
}

// restrict takes from this thread what the container's program must not have. Its order matters: what follows must still
// be allowed to what is left.
//
// The filter of system calls comes last, when all that follows is the execve. But without no_new_privs the kernel wants
// CAP_SYS_ADMIN for it, so then it comes first, as in runc, and must allow what follows: prctl, setgroups, setresgid,
// setresuid, capset.
func restrict(process *api.Process, filter *seccomp.Filter) error {
	if err := setLimits(process); err != nil {
		return err
	}
	if filter != nil {
		debug.SetGCPercent(-1) // nobody has allowed the calls of a collection
	}
	if process.NoNewPrivileges {
		if err := takePrivileges(process); err != nil {
			return err
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		return install(filter)
	}
	if err := install(filter); err != nil {
		return err
	}
	err := takePrivileges(process)
	if err != nil && filter != nil {
		return fmt.Errorf("%w (without NoNewPrivileges the seccomp profile must allow this)", err)
	}
	return err
}

func install(filter *seccomp.Filter) error {
	if err := filter.Install(); err != nil {
		return fmt.Errorf("install the seccomp filter: %w", err)
	}
	return nil
}

// takePrivileges changes the user, and leaves the capabilities that the spec says.
func takePrivileges(process *api.Process) error {
	sets, err := capabilitySets(process)
	if err != nil {
		return err
	}
	if err := dropBounding(sets[0]); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := become(process.User); err != nil {
		return err
	}
	return setCapabilities(sets[1], sets[2], sets[3], sets[4])
}

// become changes this thread's user. Go's own Setuid would change all threads, to no use: the execve ends the others.
func become(user *api.User) error {
	groups := make([]uint32, 0, len(user.GetAdditionalGids()))
	groups = append(groups, user.GetAdditionalGids()...)
	if err := setgroups(groups); err != nil {
		return fmt.Errorf("set additional groups: %w", err)
	}
	gid, uid := uintptr(user.GetGID()), uintptr(user.GetUID())
	if _, _, err := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); err != 0 {
		return fmt.Errorf("set group %d: %w", gid, err)
	}
	if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); err != 0 {
		return fmt.Errorf("set user %d: %w", uid, err)
	}
	return nil
}

// capabilitySets returns what a process may have: bounding, effective, permitted, inheritable, ambient. One that asks for none
// has none, whoever its user is.
func capabilitySets(process *api.Process) ([]uint64, error) {
	caps := process.Capabilities
	return masks(caps.GetBounding(), caps.GetEffective(), caps.GetPermitted(), caps.GetInheritable(), caps.GetAmbient())
}

// masks returns sets of capabilities as bits.
func masks(sets ...[]string) ([]uint64, error) {
	result := make([]uint64, len(sets))
	for i, set := range sets {
		for _, name := range set {
			number := slices.Index(capabilities, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
			if number < 0 {
				return nil, fault.Invalid("no such capability: %q", name)
			}
			result[i] |= 1 << number
		}
	}
	return result, nil
}

func dropBounding(keep uint64) error {
	for number := range 64 {
		if keep&(1<<number) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0)
		if err == unix.EINVAL { // past the kernel's last capability
			return nil
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", number, err)
		}
	}
	return nil
}

func setCapabilities(effective, permitted, inheritable, ambient uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		shift := 32 * i
		data[i] = unix.CapUserData{
			Effective:   uint32(effective >> shift),
			Permitted:   uint32(permitted >> shift),
			Inheritable: uint32(inheritable >> shift),
		}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	for number := range 64 {
		if ambient&(1<<number) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(number), 0, 0); err != nil {
			return fmt.Errorf("raise ambient capability %d: %w", number, err)
		}
	}
	return nil
}
