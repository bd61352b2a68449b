// Package device finds block devices by the addresses that a runtime gives, and waits for those that are plugged in.
package device

import (
	"bytes"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ueventMax is more than the kernel ever sends: UEVENT_BUFFER_SIZE (2048) of variables, and a header.
const ueventMax = 8 << 10

// fromKernel is the multicast group of the kernel's own events (lib/kobject_uevent.c, netlink_broadcast).
const fromKernel = 1

// Event is a message of the kernel that a device came or went.
type Event struct {
	Action, Devpath, Subsystem, Devname string
}

// ParseEvent reads a message in the form `ACTION@DEVPATH\0KEY=VALUE\0...`.
func ParseEvent(message []byte) (Event, error) {
	if len(message) > ueventMax {
		return Event{}, fmt.Errorf("a uevent of %d bytes", len(message))
	}
	header, variables, _ := bytes.Cut(message, []byte{0})
	action, devpath, found := strings.Cut(string(header), "@")
	if !found || action == "" || !strings.HasPrefix(devpath, "/") {
		return Event{}, fmt.Errorf("not a uevent of the kernel: %q", header)
	}
	event := Event{Action: action, Devpath: devpath}
	for variable := range bytes.SplitSeq(variables, []byte{0}) {
		switch key, value, _ := strings.Cut(string(variable), "="); key {
		case "SUBSYSTEM":
			event.Subsystem = value
		case "DEVNAME":
			event.Devname = value
		}
	}
	return event, nil
}

// Watch tells its subscribers of block devices that come; one that nobody has made listen tells of none.
type Watch struct {
	mu          sync.Mutex
	subscribers map[chan struct{}]struct{}
}

// NewWatch listens to the kernel's events until the program ends.
func NewWatch() (*Watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: fromKernel}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	w := &Watch{}
	go w.listen(fd)
	return w, nil
}

func (w *Watch) listen(fd int) {
	buffer := make([]byte, ueventMax)
	for {
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		switch {
		case err == unix.ENOBUFS: // events were lost: whoever waits must look again
			w.wake()
		case err == unix.EINTR:
		case err != nil:
			return
		case concerns(buffer[:n], from):
			w.wake()
		}
	}
}

// concerns tells whether a message is the kernel's (port 0) and about a block device that came.
func concerns(message []byte, from unix.Sockaddr) bool {
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return false
	}
	event, err := ParseEvent(message)
	return err == nil && event.Subsystem == "block" && event.Action != "remove"
}

func (w *Watch) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for subscriber := range w.subscribers {
		select {
		case subscriber <- struct{}{}:
		default: // it has yet to take the last one
		}
	}
}

func (w *Watch) subscribe() chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	subscriber := make(chan struct{}, 1)
	if w.subscribers == nil {
		w.subscribers = map[chan struct{}]struct{}{}
	}
	w.subscribers[subscriber] = struct{}{}
	return subscriber
}

func (w *Watch) unsubscribe(subscriber chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.subscribers, subscriber)
}
