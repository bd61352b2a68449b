package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mount"
)

const hugetlbfs = "hugetlbfs"

// Memory is what limits the memory of all containers.
type Memory interface {
	Shrink(bytes uint64) error
	Grow(bytes uint64) error
}

// pages are huge pages of one of the kernel's pools (Documentation/admin-guide/mm/hugetlbpage.rst) that are there for a
// volume. The pool is a directory of sysfs; without one there are none.
type pages struct {
	pool        string
	count, size uint64 // size in bytes, of one
}

// mountPages mounts a hugetlbfs. Where it has a size, so many pages more are reserved: a kernel has none that nobody asked
// for, and who touches memory of a page that can't be had ends by SIGBUS.
func (m *Manager) mountPages(s *api.Storage, source, relative, point string) error {
	reserved, err := m.reserve(s, source)
	if err != nil {
		return err
	}
	used, err := m.attachPages(s, source, relative, point, reserved)
	if !used {
		err = errors.Join(err, m.release(reserved))
	}
	return err
}

// attachPages tells whether the pages are now those of a volume.
func (m *Manager) attachPages(s *api.Storage, source, relative, point string, reserved pages) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if joined, err := m.joinLocked(point, s); joined || err != nil {
		return false, err
	}
	if err := m.attach(s, source, hugetlbfs, relative); err != nil {
		return false, err
	}
	m.enterLocked(point, &mounted{driver: s.Driver, source: s.Source, real: true, pages: reserved})
	return true, nil
}

// reserve has pages be there for a volume. How many that is, and of which size, a file system of its options tells.
func (m *Manager) reserve(s *api.Storage, source string) (pages, error) {
	options, err := mountOptions(s, hugetlbfs)
	if err != nil {
		return pages{}, err
	}
	made, err := mount.New(hugetlbfs, source, options)
	if errors.Is(err, unix.ENODEV) {
		return pages{}, fault.Unimplemented("huge pages, which this guest's kernel or its processor does not have")
	}
	if err != nil {
		return pages{}, err
	}
	defer made.Close()
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(made.Fd()), &system); err != nil {
		return pages{}, err
	}
	if count := int64(system.Blocks); count <= 0 { // it has no size of its own
		return pages{}, nil
	}
	name := fmt.Sprintf("hugepages-%dkB", system.Bsize>>10)
	wanted := pages{filepath.Join(m.Devices.Sys, "kernel/mm/hugepages", name), system.Blocks, uint64(system.Bsize)}
	return wanted, m.take(wanted)
}

// keepGroup has what is made in a volume of a group's be the group's too. The kernel takes no set-group-ID bit for an
// option of a hugetlbfs (fs/hugetlbfs/inode.c, hugetlbfs_parse_param).
func keepGroup(mounted *os.File, options mount.Options) error {
	owner, err := parseOwnership(options.Data, ownedModes[hugetlbfs])
	if err != nil || owner.mode&setGroup == 0 {
		return err
	}
	return give(mounted, owner)
}

// take enlarges a pool, of memory that all containers may use less of then.
func (m *Manager) take(p pages) error {
	m.pools.Lock()
	defer m.pools.Unlock()
	before, err := p.there()
	if err != nil {
		return err
	}
	if m.Memory != nil {
		if err := m.Memory.Shrink(p.count * p.size); err != nil {
			return fmt.Errorf("%d huge pages of %d KiB: %w", p.count, p.size>>10, err)
		}
	}
	err = p.set(before + p.count)
	now := before
	if err == nil {
		now, err = p.there()
	}
	if err == nil && now < before+p.count { // the kernel makes as many as it can
		err = fault.New(codes.ResourceExhausted,
			"only %d of %d huge pages of %d KiB are to be had", now-min(before, now), p.count, p.size>>10)
	}
	if err != nil {
		err = errors.Join(err, m.giveBack(p, before))
	}
	return err
}

// release gives a volume's pages back. What a process still has of them goes when it ends.
func (m *Manager) release(p pages) error {
	if p.count == 0 {
		return nil
	}
	m.pools.Lock()
	defer m.pools.Unlock()
	now, err := p.there()
	if err != nil {
		return err
	}
	return m.giveBack(p, now-min(p.count, now))
}

// giveBack makes a pool so small, and has the memory of a volume's pages be the containers' again.
func (m *Manager) giveBack(p pages, left uint64) error {
	err := p.set(left)
	if m.Memory != nil {
		err = errors.Join(err, m.Memory.Grow(p.count*p.size))
	}
	return err
}

// there returns how many pages a pool has for good: without those that go when nobody uses them any more.
func (p pages) there() (uint64, error) {
	all, err1 := p.read("nr_hugepages")
	surplus, err2 := p.read("surplus_hugepages")
	return all - min(surplus, all), errors.Join(err1, err2)
}

func (p pages) read(name string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(p.pool, name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

func (p pages) set(count uint64) error {
	return os.WriteFile(filepath.Join(p.pool, "nr_hugepages"), []byte(strconv.FormatUint(count, 10)), 0)
}
