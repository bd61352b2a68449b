package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a cgroup that say what its processes may take (Documentation/admin-guide/cgroup-v2.rst).
var limitFiles = []string{"memory.max", "pids.max", "cpu.max"}

// ownCgroup returns where the cgroup of this process is, seen from its cgroup namespace.
func ownCgroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	_, path, found := strings.Cut(strings.TrimSpace(string(text)), "0::")
	if !found {
		return "", fmt.Errorf("no cgroup of version 2 in %q", text)
	}
	return path, nil
}

func tellCgroup([]string) (answer, error) {
	path, err := ownCgroup()
	return answer{"path": path}, err
}

// limits tells what the cgroup of this process allows.
func limits([]string) (answer, error) {
	path, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	said := answer{}
	for _, name := range limitFiles {
		text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", path, name))
		if err != nil {
			return nil, err
		}
		said[name] = strings.TrimSpace(string(text))
	}
	return said, nil
}

// caught has the signals that came since watch.
var caught = make(chan os.Signal, 8)

// watch has signals that end programs be told instead of that.
func watch([]string) (answer, error) {
	signal.Notify(caught, unix.SIGHUP, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	return nil, nil
}

// tellCaught waits for a signal, for so many seconds.
func tellCaught(args []string) (answer, error) {
	seconds, err := strconv.ParseUint(args[0], 10, 8)
	if err != nil {
		return nil, err
	}
	select {
	case number := <-caught:
		return answer{"signal": int(number.(unix.Signal))}, nil
	case <-time.After(time.Duration(seconds) * time.Second):
		return nil, fmt.Errorf("no signal within %d s", seconds)
	}
}

// take takes memory for as long as there is some, and does not return.
func take([]string) (answer, error) {
	for {
		piece, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return nil, err
		}
		for at := 0; at < len(piece); at += 4096 {
			piece[at] = 1
		}
	}
}
