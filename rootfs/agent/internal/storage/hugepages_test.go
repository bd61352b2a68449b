package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/device"
	"guestforge.dev/agent/internal/fault"
)

// ledger has how many bytes have gone from containers.
type ledger struct {
	taken   uint64
	refuses bool
}

func (l *ledger) Shrink(bytes uint64) error {
	if l.refuses {
		return errors.New("too much")
	}
	l.taken += bytes
	return nil
}

func (l *ledger) Grow(bytes uint64) error {
	l.taken -= bytes
	return nil
}

// pooled makes pools of files, as this kernel has them, with 3 pages each of which one may be going. size is that of a page
// of one of them, and left tells what is in that one.
func pooled(t *testing.T, going int) (m *Manager, told *ledger, size uint64, left func() string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a new file system needs root")
	}
	sys, told := t.TempDir(), &ledger{}
	found, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	if err != nil || len(found) == 0 {
		t.Skip("this kernel has no huge pages")
	}
	pool := filepath.Join(sys, "kernel/mm/hugepages", filepath.Base(found[0]))
	if err := os.MkdirAll(pool, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, count := range map[string]int{"nr_hugepages": 3, "surplus_hugepages": going} {
		if err := os.WriteFile(filepath.Join(pool, name), fmt.Appendln(nil, count), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fmt.Sscanf(filepath.Base(pool), "hugepages-%dkB", &size); err != nil {
		t.Fatal(err)
	}
	m = &Manager{Base: t.TempDir(), Devices: &device.Finder{Sys: sys}, Memory: told}
	return m, told, size << 10, func() string {
		text, err := os.ReadFile(filepath.Join(pool, "nr_hugepages"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
}

func volumeOf(size uint64, options ...string) *api.Storage {
	options = append(options, fmt.Sprintf("pagesize=%d,size=%d", size, 4*size))
	return &api.Storage{Driver: "ephemeral", Fstype: hugetlbfs, Source: "nodev", Options: options}
}

func TestPagesOfAVolumeAreThereWhileItIs(t *testing.T) {
	m, told, size, left := pooled(t, 0)
	volume, err := m.reserve(volumeOf(size), "none")
	if err != nil || volume.count != 4 || left() != "7" || told.taken != 4*size {
		t.Errorf("%+v, %v: %s pages, and %d bytes have gone", volume, err, left(), told.taken)
	}
	if err := m.release(volume); err != nil || left() != "3" || told.taken != 0 {
		t.Errorf("%v: %s pages, and %d bytes have gone", err, left(), told.taken)
	}
}

func TestAVolumeWithoutASizeReservesNothing(t *testing.T) {
	m, told, size, left := pooled(t, 0)
	volume := &api.Storage{Driver: "ephemeral", Fstype: hugetlbfs, Options: []string{fmt.Sprintf("pagesize=%d", size)}}
	if found, err := m.reserve(volume, "none"); err != nil || found != (pages{}) || left() != "3" || told.taken != 0 {
		t.Errorf("%+v, %v: %s pages", found, err, left())
	}
}

// A page that goes when nobody uses it any more is none that the kernel has made for the volume.
func TestFewerPagesThanAVolumeHasAreGivenBack(t *testing.T) {
	m, told, size, left := pooled(t, 1)
	_, err := m.reserve(volumeOf(size), "none")
	own := (*fault.Error)(nil)
	if !errors.As(err, &own) || own.Code != codes.ResourceExhausted || !strings.Contains(err.Error(), "only 3 of 4 huge pages") {
		t.Errorf("%v", err)
	}
	if left() != "2" || told.taken != 0 {
		t.Errorf("%s pages, and %d bytes have gone", left(), told.taken)
	}
}

func TestNoPagesAreMadeOfWhatContainersHave(t *testing.T) {
	m, told, size, left := pooled(t, 0)
	told.refuses = true
	if _, err := m.reserve(volumeOf(size), "none"); err == nil || !strings.Contains(err.Error(), "too much") || left() != "3" {
		t.Errorf("%v: %s pages", err, left())
	}
}

func TestAVolumeThatIsNotMountedLeavesNoPages(t *testing.T) {
	m, told, size, left := pooled(t, 0)
	s := volumeOf(size, "bind")
	if err := m.mountPages(s, "none", "volume", m.Base+"/volume"); err == nil || left() != "3" || told.taken != 0 {
		t.Errorf("%v: %s pages, and %d bytes have gone", err, left(), told.taken)
	}
}
