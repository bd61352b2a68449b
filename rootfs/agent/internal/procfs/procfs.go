// Package procfs reads the kernel's text files of names and values (proc_meminfo(5), proc_pid_status(5)).
package procfs

import "strings"

// Field returns the first word of a field, which is a line that begins with its name and a colon; nothing if it has none.
func Field(text, name string) string {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name+":" {
			return words[1]
		}
	}
	return ""
}
