package container

import (
	"google.golang.org/protobuf/proto"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fields"
)

// served are the fields of a spec that this agent knows, each with the reason where it does nothing with it on purpose. What
// is not here is refused. docs/agent.md has the same tables.
var served = fields.Parse(`
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
Linux.RootfsPropagation          a container's mounts are slaves of the guest's, which are private where the agent is PID 1
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

// unserved are those that are known and refused.
var unserved = fields.Parse(`
Process.User.Username  a user has numbers here
Process.ApparmorProfile no process gets a profile here
Process.SelinuxLabel   no process gets a label here
Hooks.Prestart         its programs are the host's, and run there
Hooks.Poststart        its programs are the host's, and run there
Hooks.Poststop         its programs are the host's, and run there
Hooks.CreateRuntime    its programs are the host's, and run there
Hooks.CreateContainer  its programs are the host's, and run there
Solaris                this is Linux
Windows                this is Linux
Linux.UIDMappings      containers have no user namespace of their own
Linux.GIDMappings      containers have no user namespace of their own
Linux.Namespaces.Path  a path of the host's says nothing here
Linux.MountLabel       no mount gets a label here
Linux.IntelRdt         a guest has no say in the host's caches
`)

var table = fields.Table{Of: " of the spec", Served: served, Refused: unserved, Values: map[string][]string{
	"Linux.Namespaces.Type":   {"mount", "pid", "ipc", "uts", "cgroup"},
	"Linux.RootfsPropagation": {"private", "rprivate", "slave", "rslave"},
}}

// checkFields returns an error for a field of a spec that is set and not served.
func checkFields(spec *api.Spec) error { return table.Check(spec) }

// ignored returns the limits of a spec that nobody keeps, for the log.
func ignored(resources *api.LinuxResources) string {
	if proto.Size(resources.GetNetwork()) > 0 {
		return "network"
	}
	return ""
}
