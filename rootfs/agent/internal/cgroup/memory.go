package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
)

// Grow adds memory that was plugged in, or that huge pages have given back, to what all containers may take.
func (t *Tree) Grow(bytes uint64) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	limit, err := number(filepath.Join(parent, "memory.max"))
	if err != nil {
		return err
	}
	return setMost(parent, uint64(limit)+bytes)
}

// Shrink takes from all containers memory that is to become huge pages: else they could take what is the agent's. Nobody
// is ended for it: where they have too much for that in use, it is an error.
func (t *Tree) Shrink(bytes uint64) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return shrink(parent, bytes)
}

func shrink(path string, bytes uint64) error {
	limit, err := number(filepath.Join(path, "memory.max"))
	if err != nil {
		return err
	}
	used, err := held(path)
	if err != nil {
		return err
	}
	if free := uint64(max(limit-used, 0)); bytes > free {
		return fault.New(codes.ResourceExhausted, "%d bytes of memory: containers have %d left", bytes, free)
	}
	return setMost(path, uint64(limit)-bytes)
}

func setMost(path string, bytes uint64) error {
	return os.WriteFile(filepath.Join(path, "memory.max"), []byte(strconv.FormatUint(bytes, 10)), 0)
}

// held returns how much memory a cgroup has of what it can't be made to give back: all but the content of files.
func held(path string) (int64, error) {
	used, err := number(filepath.Join(path, "memory.current"))
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(path, "memory.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == "active_file" || name == "inactive_file" {
			bytes, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, err
			}
			used -= bytes
		}
	}
	return used, nil
}
