package cgroup

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/descriptor"
)

const pollInterval = 5 * time.Millisecond

// Kill ends all processes, those that are being forked and those that are frozen among them
// (Documentation/admin-guide/cgroup-v2.rst, cgroup.kill).
func (c *Cgroup) Kill() error {
	if c == nil {
		return errNone
	}
	file, err := c.open("cgroup.kill", unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString("1")
	return err
}

// Wait returns when no process is left.
func (c *Cgroup) Wait(ctx context.Context) error {
	if c == nil {
		return errNone
	}
	for {
		left, err := c.populated()
		if err != nil || !left {
			return err
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Cgroup) populated() (bool, error) {
	file, err := c.open("cgroup.events", unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	return !strings.Contains(string(text), "populated 0\n"), err
}

// open opens one of the cgroup's files. Its directory stays open meanwhile: when it was removed, its descriptor's number may be
// another cgroup's.
func (c *Cgroup) open(name string, flags int) (*os.File, error) {
	var fd int
	err := descriptor.Use(c.directory, func(directory int) (err error) {
		fd, err = unix.Openat(directory, name, flags|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s of a container's cgroup: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
