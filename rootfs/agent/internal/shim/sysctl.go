package shim

import (
	"fmt"
	"os"
	"path"
	"strings"

	"guestforge.dev/agent/internal/pattern"
)

// What of the kernel's parameters a container may set: the sandbox's IPC namespace has them, or the network, both of which
// containers share. Others are the whole guest's, and a container could take from it, or from others, what is theirs.
var sysctls = pattern.Lazy(`^(net\.|fs\.mqueue\.|kernel\.(shm|msg)[a-z_]*$|kernel\.sem$)[A-Za-z0-9_./-]*$`)

const (
	maxSysctls     = 256
	maxSysctlValue = 1024 // bytes
)

// CheckSysctls returns an error for parameters that a container can't have.
func CheckSysctls(wanted map[string]string) error {
	if len(wanted) > maxSysctls {
		return fmt.Errorf("%d kernel parameters", len(wanted))
	}
	for name, value := range wanted {
		switch {
		case !sysctls().MatchString(name) || path.Clean(sysctlPath(name)) != sysctlPath(name):
			return fmt.Errorf("kernel parameter %.100q is not one of a container's", name)
		case len(value) > maxSysctlValue || strings.ContainsAny(value, "\x00\n"):
			return fmt.Errorf("the value of the kernel parameter %s", name)
		}
	}
	return nil
}

// setSysctls writes parameters, of which the kernel takes those of IPC for this process's namespace, the sandbox's.
func setSysctls(wanted map[string]string) error {
	for name, value := range wanted {
		if err := os.WriteFile("/proc/sys/"+sysctlPath(name), []byte(value), 0); err != nil {
			return fmt.Errorf("set the kernel parameter %s: %w", name, err)
		}
	}
	return nil
}

// sysctlPath returns a name's path: dots are slashes, and where a name has slashes they are its dots (sysctl(8)).
func sysctlPath(name string) string {
	return strings.NewReplacer(".", "/", "/", ".").Replace(name)
}
