package safepath

import "guestforge.dev/agent/internal/fault"

const maxID = 128

// CheckID refuses what can't be the id of a container or a process: it becomes the name of a directory.
func CheckID(id string) error {
	if id == "" || len(id) > maxID {
		return fault.Invalid("an id of %d bytes: it must have 1 to %d", len(id), maxID)
	}
	for i, c := range []byte(id) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fault.Invalid("not an id: %q (letters, digits, and after the first of them _ . -)", id)
		}
	}
	return nil
}
