// Package cgroup limits containers: each has a cgroup (version 2) of its own, below one that leaves the agent a reserve.
//
// The agent itself stays in the root cgroup. What containers may take of processes and memory together is less than there
// is, so that one that takes all it can get leaves the agent able to end it.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // sets what fs2 controls devices by
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/procfs"
)

const (
	parent = fs2.UnifiedMountpoint + "/guestforge"

	// What is the agent's: threads, of which Go needs some with each process that it starts, and a quarter of the memory
	// that is left, but no more than 32 MiB.
	reservedThreads = 256
	reservedPart    = 4
	mostReserved    = 32 << 20
	perProcess      = 256 << 10 // bytes: the least that one takes is 110 KiB of the kernel's memory, on x86_64
)

// errNone is what a guest without cgroups says to whoever wants to use one.
var errNone = fault.New(codes.FailedPrecondition, "this guest has no cgroups")

// Tree makes the cgroups of containers.
type Tree struct {
	pids int64 // what a container gets whose spec limits none
	oom  *oom

	mu sync.Mutex // of the limit of all memory
}

// Cgroup is a container's. A nil one limits nothing.
type Cgroup struct {
	directory *os.File
	devices   []*api.LinuxDevice // those of its spec, which it may use whatever its rules are

	mu      sync.Mutex
	manager *fs2.Manager
}

// Open prepares the parent of all containers' cgroups. An error is that this guest can't limit containers.
func Open() (*Tree, error) {
	var status unix.Statfs_t
	if err := unix.Statfs(fs2.UnifiedMountpoint, &status); err != nil || status.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, errors.New("no cgroup version 2 is mounted on " + fs2.UnifiedMountpoint)
	}
	threads, err := number("/proc/sys/kernel/threads-max")
	if err != nil {
		return nil, err
	}
	memory, err := available()
	if err != nil {
		return nil, err
	}
	memory -= min(memory/reservedPart, mostReserved)
	// a fork bomb is to meet this limit, and not that of memory, where the kernel has to look for something to kill
	pids := min(max(threads-reservedThreads, threads/2), memory/perProcess)
	limits := &cgroups.Resources{PidsLimit: &pids, Memory: memory}
	limits.SkipDevices = true
	if _, err := create(parent, limits); err != nil {
		return nil, err
	}
	watch, err := newOOM()
	if err != nil {
		return nil, err
	}
	return &Tree{pids: pids * 3 / 4, oom: watch}, nil // so that one of them can't take the others' processes
}

// NextOOM waits for a container that has lost a process to the lack of memory, and returns its id.
func (t *Tree) NextOOM(ctx context.Context) (string, error) {
	if t == nil {
		return "", errNone
	}
	return t.oom.next(ctx)
}

// New makes a container's cgroup. What its spec leaves open has the parent's limits; its devices never have.
func (t *Tree) New(id string, linux *api.Linux) (*Cgroup, error) {
	if t == nil {
		return nil, nil
	}
	limits, err := resources(linux)
	if err != nil {
		return nil, fault.Invalid("%v", err)
	}
	if limits.PidsLimit == nil {
		limits.PidsLimit = &t.pids
	}
	path := filepath.Join(parent, id)
	manager, err := create(path, limits)
	if err != nil {
		return nil, err
	}
	c := &Cgroup{manager: manager, devices: linux.GetDevices()}
	if c.directory, err = os.Open(path); err == nil {
		// a container that has lost a process to the lack of memory is not one that works
		err = os.WriteFile(filepath.Join(path, "memory.oom.group"), []byte("1"), 0)
	}
	if err == nil {
		err = t.oom.watch(id, path)
	}
	if err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	return c, nil
}

// Directory is open on the cgroup, for clone(2) to start processes in it; nil where there is none.
func (c *Cgroup) Directory() *os.File {
	if c == nil {
		return nil
	}
	return c.directory
}

// Update changes limits; those that are not named stay as they are. Rules of devices are in the place of those before.
func (c *Cgroup) Update(asked *api.LinuxResources) error {
	if c == nil {
		return errNone
	}
	limits, err := resources(&api.Linux{Resources: asked, Devices: c.devices})
	if err != nil {
		return fault.Invalid("%v", err)
	}
	limits.SkipDevices = len(asked.GetDevices()) == 0
	c.mu.Lock()
	defer c.mu.Unlock()
	return apply(c.manager, limits)
}

// Freeze stops all processes, or lets them go on; it returns once they have stopped. A process that is frozen can be
// killed, and does nothing else.
func (c *Cgroup) Freeze(frozen bool) error {
	if c == nil {
		return errNone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !frozen {
		return c.manager.Freeze(cgroups.Thawed)
	}
	err := c.manager.Freeze(cgroups.Frozen)
	if err != nil { // some have stopped: all are to go on
		err = errors.Join(err, c.manager.Freeze(cgroups.Thawed))
	}
	return err
}

// Remove takes a cgroup away whose processes have ended.
func (c *Cgroup) Remove() error {
	if c == nil {
		return nil
	}
	if c.directory != nil {
		c.directory.Close()
	}
	return c.manager.Destroy()
}

func create(path string, limits *cgroups.Resources) (*fs2.Manager, error) {
	config := &cgroups.Cgroup{Path: strings.TrimPrefix(path, fs2.UnifiedMountpoint), Resources: limits}
	manager, err := fs2.NewManager(config, path)
	if err == nil {
		err = fs2.CreateCgroupPath(path, config)
	}
	if err == nil {
		err = apply(manager, limits)
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", path, errors.Join(err, cgroups.RemovePath(path)))
	}
	return manager, nil
}

// apply sets limits. Of all of them those of block I/O alone are a device's.
func apply(manager *fs2.Manager, limits *cgroups.Resources) error {
	err := manager.Set(limits)
	if errors.Is(err, unix.ENODEV) {
		return fault.Invalid("limit of block I/O: this guest has no such disk: %v", err)
	}
	return err
}

// available returns how many bytes of memory are left to be used, now that the agent is there.
func available() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseInt(procfs.Field(string(text), "MemAvailable"), 10, 64)
	return kib << 10, err
}

func number(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}
