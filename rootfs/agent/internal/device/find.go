package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/pattern"
)

// Address is a block device as a runtime names it; Find looks for it in sysfs and returns the name of its node.
type Address struct {
	text string
	find func(sys string) []string // the directories .../block/NAME that it may be
}

func (a Address) String() string { return a.text }

const (
	pciSlot = `[01][0-9a-f](?:\.[0-7])?` // a bus has 32
	rootBus = "00"
)

var (
	nodePath    = pattern.Lazy(`^/dev/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
	pciPath     = pattern.Lazy(`^([2-9a-f][0-9a-f]/)?(` + pciSlot + `(/` + pciSlot + `){0,15})$`)
	scsiAddress = pattern.Lazy(`^([0-9]{1,5}):([0-9]{1,5})$`)
	ccwID       = pattern.Lazy(`^[0-9a-f]{1,2}\.[0-3]\.[0-9a-f]{4}$`)
)

// Node is the address of a device by the path of its node in /dev.
func Node(source string) (Address, error) {
	if !nodePath().MatchString(source) {
		return Address{}, fault.Invalid("not a device node: %q", source)
	}
	name := source[len("/dev/"):]
	return Address{source, func(sys string) []string { return []string{sys + "/class/block/" + name} }}, nil
}

// NodeOrPCI is the address of a virtio disk by its node, or by its PCI path: the slots from the root bus on, in hex and
// with the function where it is not 0, such as "02/01".
//
// In front of two slots or more there may be the number of another root bus, as in "20/00/02": that of a NUMA node, which is
// an expander's (pxb-pcie). Kata's runtimes number those from 20 on, where no slot is.
// https://github.com/kata-containers/kata-containers/pull/12160
func NodeOrPCI(source string) (Address, error) {
	if strings.HasPrefix(source, "/") {
		return Node(source)
	}
	parts := pciPath().FindStringSubmatch(source)
	if parts == nil {
		return Address{}, fault.Invalid("neither a device node nor a PCI path (slots from 00 to 1f, as in 02/01): %q", source)
	}
	slots, bus := strings.Split(parts[2], "/"), rootBus
	if parts[1] != "" {
		bus = strings.TrimSuffix(parts[1], "/")
	}
	if bus != rootBus && len(slots) == 1 {
		return Address{}, fault.Invalid("%q: %s is no slot, and a root bus stands in front of two slots or more", source, bus)
	}
	return Address{source, func(sys string) []string { return findPCI(sys, bus, slots) }}, nil
}

// SCSI is the address of a disk by its target and its logical unit, as "0:1".
func SCSI(source string) (Address, error) {
	parts := scsiAddress().FindStringSubmatch(source)
	if parts == nil {
		return Address{}, fault.Invalid("not a SCSI address (TARGET:LUN): %q", source)
	}
	scan := "0 " + parts[1] + " " + parts[2]
	pattern := "/class/scsi_device/*:0:" + source + "/device/block/*"
	return Address{source, func(sys string) []string {
		if found := glob(sys + pattern); len(found) > 0 {
			return found
		}
		for _, host := range glob(sys + "/class/scsi_host/host*/scan") {
			// a disk that was plugged in shows only after a scan; an error is that of a host which can't
			_ = os.WriteFile(host, []byte(scan), 0)
		}
		return glob(sys + pattern)
	}}, nil
}

// CCW is the address of a disk by its number on the channel subsystem, as "0.0.0005".
func CCW(source string) (Address, error) {
	if !ccwID().MatchString(source) {
		return Address{}, fault.Invalid("not a CCW device id: %q", source)
	}
	pattern := "/devices/css0/*/" + source + "/virtio*/block/*"
	return Address{source, func(sys string) []string { return glob(sys + pattern) }}, nil
}

// Where root buses may be. If a device tree describes the machine, they hang below a platform device, which may be on a bus of
// its own (riscv64's virt: platform/soc/30000000.pci).
var rootBuses = []string{"/devices/", "/devices/platform/*/", "/devices/platform/*/*/"}

// findPCI walks down from a root bus.
func findPCI(sys, number string, slots []string) []string {
	var found, roots []string
	for _, place := range rootBuses {
		roots = append(roots, glob(sys+place+"pci0000:"+number)...)
	}
	for _, root := range roots {
		at, bus := root, "0000:"+number
		for i, slot := range slots {
			if i > 0 {
				buses := glob(at + "/pci_bus/*")
				if len(buses) != 1 {
					at = ""
					break
				}
				bus = filepath.Base(buses[0])
			}
			at += "/" + bus + ":" + withFunction(slot)
		}
		if at != "" {
			found = append(found, glob(at+"/virtio*/block/*")...)
		}
	}
	return found
}

func withFunction(slot string) string {
	if strings.Contains(slot, ".") {
		return slot
	}
	return slot + ".0"
}

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern) // the one error is that of a malformed pattern: they are all ours
	return found
}

// lookAgain is how often a device is looked for without an event: its node may come a moment after its sysfs entry.
const lookAgain = 20 * time.Millisecond

// Finder looks for devices in a sysfs and a /dev.
type Finder struct {
	Sys, Dev string
	Watch    *Watch
	Timeout  time.Duration
}

// Wait returns the path of a device's node as soon as the device is there. It subscribes to the kernel's events before
// it first looks, so a device that comes in between is not missed.
func (f *Finder) Wait(ctx context.Context, address Address) (string, error) {
	limit := time.After(f.Timeout)
	events := f.Watch.subscribe()
	defer f.Watch.unsubscribe(events)
	for {
		node, entry, err := f.look(address)
		if node != "" || err != nil {
			return node, err
		}
		var soon <-chan time.Time
		if entry {
			soon = time.After(lookAgain)
		}
		select {
		case <-events:
		case <-soon:
		case <-limit:
			return "", fault.New(codes.NotFound, "block device %s did not come within %v", address, f.Timeout)
		case <-ctx.Done():
			return "", fmt.Errorf("block device %s did not come: %w", address, ctx.Err())
		}
	}
}

// look returns a device's node if it is there, and whether sysfs has the device at all.
func (f *Finder) look(address Address) (node string, entry bool, err error) {
	var there []string
	for _, directory := range address.find(f.Sys) {
		if _, err := os.Stat(directory); err == nil {
			there = append(there, filepath.Base(directory))
		}
	}
	switch len(there) {
	case 0:
		return "", false, nil
	case 1:
	default:
		return "", true, fault.Invalid("more than one block device is at %s: %v", address, there)
	}
	path := filepath.Join(f.Dev, there[0])
	info, err := os.Stat(path)
	if err != nil {
		return "", true, nil
	}
	if info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return "", true, fault.Invalid("%s is not a block device", path)
	}
	return path, true, nil
}
