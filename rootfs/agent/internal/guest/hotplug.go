package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
)

// Hotplug takes processors and memory into use that were plugged into the machine. Devices is where sysfs has them.
type Hotplug struct{ Devices string } // /sys/devices/system

const (
	lookForProcessors = 20 * time.Millisecond // from one look for processors that are to come to the next
	waitForProcessors = time.Second           // for the kernel to find them; Kata's agent gives it that
	maxProbes         = 4096                  // addresses in a request
)

// Online takes processors into use, at most r.NbCpus of them or all where that is 0, and all memory unless r.CpuOnly is set.
// With r.Wait it waits until so many processors are there. It returns how many bytes of memory were added.
func (h Hotplug) Online(ctx context.Context, r *api.OnlineCPUMemRequest) (uint64, error) {
	if err := h.processors(ctx, int(r.NbCpus), r.Wait); err != nil {
		return 0, err
	}
	if r.CpuOnly {
		return 0, nil
	}
	blocks, err := h.online("memory/memory*", 0)
	if blocks == 0 || err != nil {
		return 0, err
	}
	size, err := h.blockSize()
	return uint64(blocks) * size, err
}

func (h Hotplug) processors(ctx context.Context, wanted int, wait bool) error {
	limit := time.After(waitForProcessors)
	for done := 0; ; {
		more, err := h.online("cpu/cpu[0-9]*", wanted-done)
		done += more
		if err != nil || !wait || done >= wanted {
			return err
		}
		select {
		case <-time.After(lookForProcessors):
		case <-limit:
			return fault.New(codes.DeadlineExceeded, "%d of %d processors have come within %v", done, wanted, waitForProcessors)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// online takes devices into use that are not: at most so many, or all where that is 0. It returns how many.
func (h Hotplug) online(pattern string, most int) (int, error) {
	files, err := filepath.Glob(filepath.Join(h.Devices, pattern, "online"))
	if err != nil {
		return 0, err
	}
	done := 0
	var errs []error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(text)) != "0" {
			continue
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			errs = append(errs, err)
			continue
		}
		if done++; done == most {
			break
		}
	}
	return done, errors.Join(errs...)
}

// Probe tells the kernel of memory at these addresses, on machines that have no other way to tell it.
func (h Hotplug) Probe(addresses []uint64) error {
	if len(addresses) > maxProbes {
		return fault.Invalid("%d addresses of memory", len(addresses))
	}
	if !h.probes() && len(addresses) > 0 {
		return fault.Unimplemented("memory that is plugged in by probe: this kernel has none")
	}
	for _, address := range addresses {
		if err := os.WriteFile(h.probe(), fmt.Appendf(nil, "%#x", address), 0); err != nil {
			return err
		}
	}
	return nil
}

// probes tells whether the kernel has that way.
func (h Hotplug) probes() bool {
	_, err := os.Stat(h.probe())
	return err == nil
}

func (h Hotplug) probe() string { return filepath.Join(h.Devices, "memory/probe") }

// blockSize is that of memory which comes and goes, in bytes; 0 on a kernel without.
func (h Hotplug) blockSize() (uint64, error) {
	text, err := os.ReadFile(filepath.Join(h.Devices, "memory/block_size_bytes"))
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 16, 64)
}
