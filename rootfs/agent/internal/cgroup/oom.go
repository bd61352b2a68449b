package cgroup

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/descriptor"
)

// oom tells of containers in which the kernel has killed for lack of memory: it changes memory.events of their cgroups,
// and inotify(7) tells of that.
type oom struct {
	inotify *os.File

	mu      sync.Mutex
	watched map[int32]*watched // by watch descriptor
	pending []string           // containers of which nobody has been told, each once
	news    chan struct{}      // has something while pending may have
}

type watched struct {
	id, path string
	kills    uint64
}

func newOOM() (*oom, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	o := &oom{inotify: os.NewFile(uintptr(fd), "inotify"), watched: map[int32]*watched{}, news: make(chan struct{}, 1)}
	go o.listen()
	return o, nil
}

// watch begins to listen for a container, until its cgroup is removed.
func (o *oom) watch(id, path string) error {
	o.mu.Lock() // an event that comes at once finds the container
	defer o.mu.Unlock()
	var number int
	err := descriptor.Use(o.inotify, func(fd int) (err error) {
		number, err = unix.InotifyAddWatch(fd, filepath.Join(path, "memory.events"), unix.IN_MODIFY)
		return err
	})
	if err != nil {
		return os.NewSyscallError("inotify_add_watch", err)
	}
	o.watched[int32(number)] = &watched{id: id, path: path}
	return nil
}

func (o *oom) listen() {
	buffer := make([]byte, 64*unix.SizeofInotifyEvent)
	for {
		n, err := o.inotify.Read(buffer)
		if err != nil {
			slog.Error("no more is told of containers that run out of memory", "error", err)
			return
		}
		for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			number, mask := int32(binary.NativeEndian.Uint32(rest)), binary.NativeEndian.Uint32(rest[4:])
			name := binary.NativeEndian.Uint32(rest[12:]) // how long a name follows: none, for what is watched are files
			rest = rest[min(len(rest), unix.SizeofInotifyEvent+int(name)):]
			o.heard(number, mask)
		}
	}
}

func (o *oom) heard(number int32, mask uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	one := o.watched[number]
	if one == nil {
		return
	}
	if mask&unix.IN_IGNORED != 0 { // the cgroup is gone
		delete(o.watched, number)
		return
	}
	kills, err := fs2.OOMKillCount(one.path)
	if err != nil || kills <= one.kills {
		return
	}
	one.kills = kills
	if !slices.Contains(o.pending, one.id) {
		o.pending = append(o.pending, one.id)
	}
	o.tell()
}

// tell wakes one who waits.
func (o *oom) tell() {
	select {
	case o.news <- struct{}{}:
	default:
	}
}

// next waits for a container that has run out of memory, and returns its id. Each time is told once.
func (o *oom) next(ctx context.Context) (string, error) {
	for {
		select {
		case <-o.news:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if id := o.take(); id != "" {
			return id, nil
		}
	}
}

func (o *oom) take() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending) == 0 {
		return ""
	}
	id := o.pending[0]
	o.pending = o.pending[1:]
	if len(o.pending) > 0 {
		o.tell()
	}
	return id
}
