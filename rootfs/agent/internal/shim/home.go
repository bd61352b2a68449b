package shim

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"guestforge.dev/agent/internal/api"
)

const maxPasswd = 1 << 20 // bytes of a container's /etc/passwd that are read

// environment returns a process's variables: its own, and HOME where it has none.
func environment(process *api.Process) []string {
	for _, variable := range process.Env {
		if strings.HasPrefix(variable, "HOME=") {
			return process.Env
		}
	}
	return append(process.Env, "HOME="+home("/etc/passwd", process.User.GetUID()))
}

// home returns a user's directory by a passwd(5), else the root directory.
func home(passwd string, uid uint32) string {
	info, err := os.Stat(passwd)
	if err != nil || !info.Mode().IsRegular() { // a pipe would have us wait
		return "/"
	}
	file, err := os.Open(passwd)
	if err != nil {
		return "/"
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, maxPasswd))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) == 7 && fields[2] == strconv.FormatUint(uint64(uid), 10) && isPath(fields[5]) {
			return fields[5]
		}
	}
	return "/"
}

// isPath tells whether a text is an absolute path. With a NUL byte it could be no variable's value.
func isPath(text string) bool { return strings.HasPrefix(text, "/") && strings.IndexByte(text, 0) < 0 }
