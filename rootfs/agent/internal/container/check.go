package container

import (
	"log/slog"
	"strings"

	"google.golang.org/protobuf/proto"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/seccomp"
	"guestforge.dev/agent/internal/shim"
)

// check refuses what is malformed, and what would change what a container may do and is not served: to start it without
// would give it more than was asked for.
func check(r *api.CreateContainerRequest, base string, limits bool) error {
	spec := r.OCI
	if spec == nil || spec.Root == nil || spec.Process == nil {
		return fault.Invalid("the spec must have a root and a process")
	}
	if err := checkProcess(spec.Process); err != nil {
		return err
	}
	if err := shim.CheckMounts(spec.Mounts, base); err != nil {
		return fault.Invalid("%v", err)
	}
	if err := shim.CheckDevices(spec.Linux.GetDevices()); err != nil {
		return fault.Invalid("%v", err)
	}
	if err := shim.CheckHooks(spec.Hooks.GetStartContainer()); err != nil {
		return err
	}
	if err := shim.CheckSysctls(spec.Linux.GetSysctl()); err != nil {
		return fault.Unimplemented("%v", err)
	}
	if err := checkSeccomp(spec.Linux.GetSeccomp()); err != nil {
		return err
	}
	switch {
	case len(spec.Hostname) > 64 || strings.IndexByte(spec.Hostname, 0) >= 0:
		return fault.Invalid("a host name of more than 64 bytes")
	case !limits && len(spec.GetLinux().GetResources().GetDevices()) > 0:
		return fault.Unimplemented("Linux.Resources.Devices of the spec, in a guest without cgroups")
	}
	if names := ignored(spec.GetLinux().GetResources()); names != "" {
		slog.Warn("limits are not enforced", "container", r.ContainerId, "of", names)
	}
	if !limits && proto.Size(spec.GetLinux().GetResources()) > 0 {
		slog.Warn("limits are not enforced: there are no cgroups", "container", r.ContainerId)
	}
	return checkFields(spec)
}

// checkSeccomp returns an error for a profile of which no filter can be made.
func checkSeccomp(profile *api.LinuxSeccomp) error {
	filter, err := seccomp.Compile(profile)
	if err == nil && filter != nil && !seccomp.Available() {
		return fault.Unimplemented("Linux.Seccomp of the spec, for this kernel has no filters (CONFIG_SECCOMP_FILTER)")
	}
	return err
}

func checkProcess(p *api.Process) error {
	if err := shim.Check(p); err != nil {
		return fault.Invalid("%v", err)
	}
	for _, text := range append(append([]string{p.Cwd}, p.Args...), p.Env...) {
		if strings.IndexByte(text, 0) >= 0 {
			return fault.Invalid("a NUL byte in an argument, a variable or the working directory")
		}
	}
	return nil
}
