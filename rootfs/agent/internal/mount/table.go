package mount

import (
	"os"
	"strings"
)

// Entry is a line of /proc/self/mountinfo.
type Entry struct{ Target, Fstype, Source string }

// Table returns the mounts of this process's namespace, in the order in which they were made.
func Table() ([]Entry, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return ParseTable(string(text)), nil
}

// ParseTable reads mountinfo's lines, as proc_pid_mountinfo(5) has them; one that it can't read it leaves out.
func ParseTable(text string) []Entry {
	var entries []Entry
	for line := range strings.Lines(text) {
		left, right, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		place, kind := strings.Fields(left), strings.Fields(right)
		if found && len(place) >= 6 && len(kind) >= 2 {
			entries = append(entries, Entry{unescape(place[4]), kind[0], unescape(kind[1])})
		}
	}
	return entries
}

// unescape undoes the kernel's \ooo for white space and backslashes.
func unescape(text string) string {
	var plain strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			var value int
			for _, digit := range []byte(text[i+1 : i+4]) {
				value = value<<3 | int(digit-'0')&7
			}
			plain.WriteByte(byte(value))
			i += 3
			continue
		}
		plain.WriteByte(text[i])
	}
	return plain.String()
}

// Below returns the targets at or below a directory, the innermost and newest first: the order to unmount them in.
func Below(entries []Entry, directory string) []string {
	var targets []string
	for _, entry := range entries {
		if entry.Target == directory || strings.HasPrefix(entry.Target, strings.TrimSuffix(directory, "/")+"/") {
			targets = append([]string{entry.Target}, targets...)
		}
	}
	return targets
}
