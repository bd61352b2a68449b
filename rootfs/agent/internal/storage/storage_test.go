package storage

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/device"
	"guestforge.dev/agent/internal/fault"
)

func refused(t *testing.T, code codes.Code, s *api.Storage) {
	t.Helper()
	m := &Manager{Base: t.TempDir()}
	if s.MountPoint == "" {
		s.MountPoint = m.Base + "/point"
	}
	_, err := m.Mount(context.Background(), []*api.Storage{s})
	if own := (*fault.Error)(nil); !errors.As(err, &own) || own.Code != code {
		t.Errorf("%v: %v", s, err)
	}
}

func TestStoragesThatAreRefused(t *testing.T) {
	for _, s := range []*api.Storage{
		{Driver: "virtio-fs", Source: "tag", Fstype: "ext4"},
		{Driver: "virtio-fs", Source: ""},
		{Driver: "virtio-fs", Source: strings.Repeat("x", maxTag+1)},
		{Driver: "virtio-fs", Source: "tag", MountPoint: "/etc"},
		{Driver: "virtio-fs", Source: "tag", MountPoint: "relative"},
		{Driver: "9p", Source: "tag", Fstype: "virtiofs"},
		{Driver: "9p", Source: ""},
		{Driver: "9p", Source: strings.Repeat("x", maxPlan9Tag+1)},
		{Driver: "blk", Source: "/dev/vda", Fstype: "proc"},
		{Driver: "blk", Source: "/etc/passwd", Fstype: "ext4"},
		{Driver: "mmioblk", Source: "02/01", Fstype: "ext4"},
		{Driver: "scsi", Source: "/dev/sda", Fstype: "ext4"},
		{Driver: "ephemeral", Fstype: "ext4"},
		{Driver: "ephemeral", Fstype: "tmpfs", Options: []string{"bind"}},
		{Driver: "ephemeral", Fstype: "tmpfs", Options: []string{"remount"}},
		{Driver: "overlayfs", Fstype: "overlay", Options: []string{"lowerdir=/etc"}},
		{Driver: "overlayfs", Fstype: "overlay", Options: []string{"upperdir=a"}},
		{Driver: "overlayfs", Fstype: "overlay", Options: []string{"lowerdir+=/etc"}},
		{Driver: "overlayfs", Fstype: "overlay", Options: []string{"datadir+=/etc"}},
		{Driver: "overlayfs", Fstype: "overlay", Options: []string{"index=off,whatever"}},
		{Driver: "local", Options: []string{"mode=99"}},
		{Driver: "local", Options: []string{"uid=1"}},
		{Driver: "watchable-bind", Source: "/etc"},
	} {
		refused(t, codes.InvalidArgument, s)
	}
}

func TestDriversThatAreNotServed(t *testing.T) {
	for _, s := range []*api.Storage{{Driver: "nvdimm"}, {Driver: ""}, {Driver: "image_guest_pull"}} {
		refused(t, codes.Unimplemented, s)
	}
}

func TestAMountPointIsSharedByUsersOfOneStorage(t *testing.T) {
	m := &Manager{Base: t.TempDir()}
	local := &api.Storage{Driver: "local", Fstype: "local", MountPoint: m.Base + "/dir", Options: []string{"mode=0711"}}
	first, err := m.Mount(context.Background(), []*api.Storage{local, local})
	if err != nil || len(first) != 2 {
		t.Fatal(first, err)
	}
	other := &api.Storage{Driver: "local", Source: "other", MountPoint: m.Base + "/dir"}
	if _, err := m.Mount(context.Background(), []*api.Storage{other}); err == nil {
		t.Error("another storage on the same mount point")
	}
	if err := m.Unmount(first[:1]); err != nil || len(m.mounted) != 1 {
		t.Errorf("%v, %v", m.mounted, err)
	}
	if err := m.Unmount(first[1:]); err != nil || len(m.mounted) != 0 {
		t.Errorf("%v, %v", m.mounted, err)
	}
}

// A volume that containers of a sandbox share is there while none of them is.
func TestASharedStorageIsThereUntilTheSandboxEnds(t *testing.T) {
	m := &Manager{Base: t.TempDir()}
	storage := func(name string, shared bool) *api.Storage {
		return &api.Storage{Driver: "local", Fstype: "local", MountPoint: m.Base + "/" + name, Shared: shared}
	}
	mount := func(storages ...*api.Storage) Set {
		t.Helper()
		set, err := m.Mount(context.Background(), storages)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	users := func(want map[string]int) {
		t.Helper()
		got := map[string]int{}
		for point, known := range m.mounted {
			got[strings.TrimPrefix(point, m.Base+"/")] = known.users
		}
		if !maps.Equal(got, want) {
			t.Errorf("users are %v, not %v", got, want)
		}
	}
	first := mount(storage("shared", true), storage("own", false), storage("later", false))
	second := mount(storage("shared", true), storage("later", true), storage("later", true))
	users(map[string]int{"shared": 3, "own": 1, "later": 4})
	if err := errors.Join(m.Unmount(first), m.Unmount(second)); err != nil {
		t.Fatal(err)
	}
	users(map[string]int{"shared": 1, "later": 1})
	third := mount(storage("shared", false))
	users(map[string]int{"shared": 2, "later": 1})
	if err := m.Unmount(third); err != nil {
		t.Fatal(err)
	}
	bad := &api.Storage{Driver: "local", MountPoint: m.Base + "/bad", Options: []string{"uid=1"}}
	if _, err := m.Mount(context.Background(), []*api.Storage{storage("new", true), bad}); err == nil {
		t.Error("a storage with an option that there is not")
	}
	users(map[string]int{"shared": 1, "later": 1}) // a request that failed leaves nothing
	for range 2 {
		if err := m.UnmountShared(); err != nil {
			t.Fatal(err)
		}
		users(map[string]int{})
	}
}

func TestNobodyWaitsForADiskOfAnother(t *testing.T) {
	sys := t.TempDir()
	m := &Manager{Base: t.TempDir(), Devices: &device.Finder{Sys: sys, Dev: sys, Watch: &device.Watch{}, Timeout: time.Minute}}
	ctx, cancel := context.WithCancel(context.Background())
	waiting := make(chan error)
	go func() {
		disk := &api.Storage{Driver: "blk", Source: "/dev/vdz", Fstype: "ext4", MountPoint: m.Base + "/disk"}
		_, err := m.Mount(ctx, []*api.Storage{disk})
		waiting <- err
	}()
	time.Sleep(100 * time.Millisecond) // by then it waits
	local := &api.Storage{Driver: "local", Fstype: "local", MountPoint: m.Base + "/dir"}
	done := make(chan error)
	go func() {
		set, err := m.Mount(ctx, []*api.Storage{local})
		done <- errors.Join(err, m.Unmount(set))
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a directory had to wait for a disk that does not come")
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("the disk: %v", err)
	}
}

func TestAVolumeBelongsToAPodsGroup(t *testing.T) {
	for _, test := range []struct {
		fstype        string
		options, want []string
	}{
		{"tmpfs", []string{"size=1m", "fsgid=5"}, []string{"size=1m", "gid=5", "mode=3777"}},
		{"tmpfs", []string{"fsgid=5", "mode=750"}, []string{"gid=5", "mode=2750"}},
		{"hugetlbfs", []string{"fsgid=7"}, []string{"gid=7", "mode=2755"}},
		{"tmpfs", []string{"size=1m", "mode=750"}, []string{"size=1m", "mode=750"}},
		{"ext4", []string{"fsgid=5"}, []string{"fsgid=5"}}, // the kernel refuses it
	} {
		if got, err := grouped(test.fstype, test.options); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s %v: %v, %v", test.fstype, test.options, got, err)
		}
	}
	for _, wrong := range []string{"fsgid=x", "fsgid=4294967295", "fsgid=-1", "fsgid=5 6", "mode=9"} {
		if _, err := grouped("tmpfs", []string{wrong}); err == nil {
			t.Errorf("%s is taken", wrong)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("another group needs root")
	}
	m := &Manager{Base: t.TempDir()}
	s := &api.Storage{Driver: "local", Fstype: "local", MountPoint: m.Base + "/dir", Options: []string{"mode=0770", "fsgid=1234"}}
	if _, err := m.Mount(context.Background(), []*api.Storage{s}); err != nil {
		t.Fatal(err)
	}
	var status unix.Stat_t
	if err := unix.Stat(m.Base+"/dir", &status); err != nil || status.Gid != 1234 || status.Mode&0o7777 != 0o2770 {
		t.Errorf("group %d, mode %o, %v", status.Gid, status.Mode, err)
	}
}
