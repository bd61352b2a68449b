package guest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"guestforge.dev/agent/internal/api"
)

// machine makes a sysfs of processors and memory: each file's name is a device's, its content what `online` says.
func machine(t *testing.T, online map[string]string) Hotplug {
	t.Helper()
	h := Hotplug{t.TempDir()}
	for device, text := range online {
		write(t, filepath.Join(h.Devices, device, "online"), text)
	}
	write(t, filepath.Join(h.Devices, "memory/block_size_bytes"), "8000000\n")
	return h
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (h Hotplug) used(t *testing.T, pattern string) (count int) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(h.Devices, pattern, "online"))
	for _, file := range files {
		if text, _ := os.ReadFile(file); string(text) != "0\n" {
			count++
		}
	}
	return count
}

func TestProcessorsAndMemoryAreTakenIntoUse(t *testing.T) {
	offline := map[string]string{
		"cpu/cpu1": "0\n", "cpu/cpu2": "0\n", "cpu/cpu3": "1\n", "memory/memory0": "1\n", "memory/memory8": "0\n",
		"memory/memory9": "0\n",
	}
	for _, test := range []struct {
		asked              *api.OnlineCPUMemRequest
		processors, blocks int
		added              uint64
	}{
		{&api.OnlineCPUMemRequest{}, 3, 3, 2 * 0x8000000},
		{&api.OnlineCPUMemRequest{NbCpus: 1, CpuOnly: true}, 2, 1, 0},
		{&api.OnlineCPUMemRequest{NbCpus: 2, Wait: true, CpuOnly: true}, 3, 1, 0},
	} {
		h := machine(t, offline)
		added, err := h.Online(context.Background(), test.asked)
		if err != nil || added != test.added || h.used(t, "cpu/cpu*") != test.processors || h.used(t, "memory/memory*") != test.blocks {
			t.Errorf("%v: %d bytes, %v", test.asked, added, err)
		}
	}
}

func TestProcessorsAreWaitedFor(t *testing.T) {
	h := machine(t, map[string]string{"cpu/cpu1": "0\n"})
	go func() {
		time.Sleep(50 * time.Millisecond)
		if os.MkdirAll(filepath.Join(h.Devices, "cpu/cpu2"), 0o755) == nil {
			_ = os.WriteFile(filepath.Join(h.Devices, "cpu/cpu2/online"), []byte("0\n"), 0o644)
		}
	}()
	if _, err := h.Online(context.Background(), &api.OnlineCPUMemRequest{NbCpus: 2, Wait: true, CpuOnly: true}); err != nil {
		t.Error(err)
	}
	if _, err := h.Online(context.Background(), &api.OnlineCPUMemRequest{NbCpus: 1, Wait: true, CpuOnly: true}); err == nil {
		t.Error("a processor that does not come has come")
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.Online(ended, &api.OnlineCPUMemRequest{NbCpus: 1, Wait: true}); err != context.Canceled {
		t.Error(err)
	}
}

func TestMemoryIsProbedWhereTheKernelCan(t *testing.T) {
	h := machine(t, nil)
	if err := h.Probe([]uint64{1 << 32}); err == nil {
		t.Error("no error without a kernel that can")
	}
	if err := h.Probe(nil); err != nil {
		t.Error(err)
	}
	write(t, h.probe(), "")
	if err := h.Probe([]uint64{1 << 32}); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(h.probe()); string(text) != "0x100000000" {
		t.Errorf("%q was written", text)
	}
	if err := h.Probe(make([]uint64, maxProbes+1)); err == nil {
		t.Error("any number of addresses")
	}
}
