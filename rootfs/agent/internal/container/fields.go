package container

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
)

// served are the fields of a spec that this agent knows, each with the reason where it does nothing with it on purpose. What
// is not here is refused: a field that is left out in silence may be a protection that somebody relies on.
var served = fields(`
Version                          whatever it is, the fields say what is asked for
Hostname
Root.Path
Root.Readonly
Mounts.destination
Mounts.source
Mounts.type
Mounts.options
Annotations                      notes between a runtime and its users
Process.Args
Process.Env
Process.Cwd
Process.NoNewPrivileges
Process.OOMScoreAdj
Process.Terminal
Process.ConsoleSize.Height
Process.ConsoleSize.Width
Process.User.UID
Process.User.GID
Process.User.AdditionalGids
Process.Capabilities.Bounding
Process.Capabilities.Effective
Process.Capabilities.Inheritable
Process.Capabilities.Permitted
Process.Capabilities.Ambient
Process.Rlimits.Type
Process.Rlimits.Hard
Process.Rlimits.Soft
Hooks.StartContainer.Path
Hooks.StartContainer.Args
Hooks.StartContainer.Env
Hooks.StartContainer.Timeout
Linux.Namespaces.Type
Linux.Devices.Path
Linux.Devices.Type
Linux.Devices.Major
Linux.Devices.Minor
Linux.Devices.FileMode
Linux.Devices.UID
Linux.Devices.GID
Linux.Sysctl
Linux.Seccomp.DefaultAction
Linux.Seccomp.Architectures
Linux.Seccomp.Flags
Linux.Seccomp.Syscalls.Names
Linux.Seccomp.Syscalls.Action
Linux.Seccomp.Syscalls.errnoret
Linux.Seccomp.Syscalls.Args.Index
Linux.Seccomp.Syscalls.Args.Value
Linux.Seccomp.Syscalls.Args.ValueTwo
Linux.Seccomp.Syscalls.Args.Op
Linux.MaskedPaths
Linux.ReadonlyPaths
Linux.RootfsPropagation
Linux.CgroupsPath                a container's cgroup has its id below the agent's parent of all
Linux.Resources.Devices.Allow
Linux.Resources.Devices.Type
Linux.Resources.Devices.Major
Linux.Resources.Devices.Minor
Linux.Resources.Devices.Access
Linux.Resources.Memory.Limit
Linux.Resources.Memory.Reservation
Linux.Resources.Memory.Swap
Linux.Resources.Memory.Kernel           version 2 of cgroups counts it with the rest
Linux.Resources.Memory.KernelTCP        version 2 of cgroups counts it with the rest
Linux.Resources.Memory.Swappiness       version 2 of cgroups has none
Linux.Resources.Memory.DisableOOMKiller version 2 of cgroups has none
Linux.Resources.CPU.Shares
Linux.Resources.CPU.Quota
Linux.Resources.CPU.Period
Linux.Resources.CPU.RealtimeRuntime     version 2 of cgroups has none
Linux.Resources.CPU.RealtimePeriod      version 2 of cgroups has none
Linux.Resources.CPU.Cpus
Linux.Resources.CPU.Mems
Linux.Resources.Pids.Limit
Linux.Resources.HugepageLimits.Pagesize
Linux.Resources.HugepageLimits.Limit
Linux.Resources.BlockIO.Weight          where the kernel has none it is logged: a share, and no limit
Linux.Resources.BlockIO.LeafWeight      version 2 of cgroups has none
Linux.Resources.BlockIO.WeightDevice.Major
Linux.Resources.BlockIO.WeightDevice.Minor
Linux.Resources.BlockIO.WeightDevice.Weight     where the kernel has none it is logged: a share, and no limit
Linux.Resources.BlockIO.WeightDevice.LeafWeight version 2 of cgroups has none
Linux.Resources.BlockIO.ThrottleReadBpsDevice.Major
Linux.Resources.BlockIO.ThrottleReadBpsDevice.Minor
Linux.Resources.BlockIO.ThrottleReadBpsDevice.Rate
Linux.Resources.BlockIO.ThrottleWriteBpsDevice.Major
Linux.Resources.BlockIO.ThrottleWriteBpsDevice.Minor
Linux.Resources.BlockIO.ThrottleWriteBpsDevice.Rate
Linux.Resources.BlockIO.ThrottleReadIOPSDevice.Major
Linux.Resources.BlockIO.ThrottleReadIOPSDevice.Minor
Linux.Resources.BlockIO.ThrottleReadIOPSDevice.Rate
Linux.Resources.BlockIO.ThrottleWriteIOPSDevice.Major
Linux.Resources.BlockIO.ThrottleWriteIOPSDevice.Minor
Linux.Resources.BlockIO.ThrottleWriteIOPSDevice.Rate
Linux.Resources.Network          a limit, and no protection: it is logged
`)

// values has the fields that are served with some of their values only, and these.
var values = map[string][]string{
	"Linux.Namespaces.Type":   {"mount", "pid", "ipc", "uts", "cgroup"},
	"Linux.RootfsPropagation": {"private", "rprivate", "slave", "rslave"},
}

func fields(table string) map[string]string {
	known := map[string]string{}
	for line := range strings.Lines(strings.TrimSpace(table)) {
		name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		known[name] = strings.TrimSpace(reason)
	}
	return known
}

// checkFields returns an error for a field of a spec that is set and not served.
func checkFields(spec *api.Spec) error { return walk("", spec.ProtoReflect()) }

func walk(prefix string, message protoreflect.Message) error {
	if len(message.GetUnknown()) > 0 {
		return fault.Unimplemented("fields of the spec below %q that a newer API has", prefix)
	}
	var err error
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		err = look(prefix+string(field.Name()), field, value)
		return err == nil
	})
	return err
}

func look(name string, field protoreflect.FieldDescriptor, value protoreflect.Value) error {
	if _, known := served[name]; known {
		return among(name, value)
	}
	switch {
	case field.Message() == nil || field.IsMap():
	case field.IsList():
		for i := range value.List().Len() {
			if err := walk(name+".", value.List().Get(i).Message()); err != nil {
				return err
			}
		}
		if leads(name) {
			return nil
		}
	default:
		if err := walk(name+".", value.Message()); err != nil || leads(name) {
			return err
		}
	}
	return fault.Unimplemented("%s of the spec", name)
}

// leads tells whether fields below a name are served, so that the name itself may be there.
func leads(name string) bool {
	for known := range served {
		if strings.HasPrefix(known, name+".") {
			return true
		}
	}
	return false
}

func among(name string, value protoreflect.Value) error {
	if some, bounded := values[name]; bounded && !slices.Contains(some, value.String()) {
		return fault.Unimplemented("%s of the spec: %q", name, value.String())
	}
	return nil
}

// ignored returns the limits of a spec that nobody keeps, for the log.
func ignored(resources *api.LinuxResources) string {
	if proto.Size(resources.GetNetwork()) > 0 {
		return "network"
	}
	return ""
}
