package shim

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// find returns the program's path, looked for in the container's own PATH.
func find(process *api.Process) (string, error) {
	name := process.Args[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := defaultPath
	for _, variable := range process.Env {
		if value, found := strings.CutPrefix(variable, "PATH="); found {
			path = value
		}
	}
	for _, directory := range filepath.SplitList(path) {
		program := filepath.Join("/", directory, name)
		if info, err := os.Stat(program); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return program, nil
		}
	}
	return "", &os.PathError{Op: "find in PATH", Path: name, Err: unix.ENOENT}
}
