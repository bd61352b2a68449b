package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/safepath/pathtest"
)

// linked makes a base with a directory, and with links out of it, within it, and to nothing; outside has what they lead to.
func linked(t *testing.T) (m *Manager, outside string) {
	t.Helper()
	base, outside := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.MkdirAll(base+"/there/below", 0o755), os.MkdirAll(outside+"/below", 0o755), os.Symlink(outside, base+"/out"),
		os.Symlink("there", base+"/in"), os.Symlink(outside+"/nowhere", base+"/dangling"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &Manager{Base: base}, outside
}

// unchanged tells what has come to be where no storage has any business.
func unchanged(t *testing.T, m *Manager, outside string) {
	t.Helper()
	for _, directory := range []string{outside, outside + "/below", m.Base + "/there", m.Base + "/there/below"} {
		entries, err := os.ReadDir(directory)
		if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "below" {
			t.Errorf("%s has %v, %v", directory, entries, err)
		}
	}
}

func TestNoLinkLeadsToAMountPoint(t *testing.T) {
	m, outside := linked(t)
	for _, point := range []string{
		"out", "out/new", "out/below", "out/below/new", "in", "in/new", "in/below/new", "dangling", "dangling/new",
	} {
		s := &api.Storage{Driver: "local", Fstype: "local", MountPoint: m.Base + "/" + point}
		if _, err := m.Mount(context.Background(), []*api.Storage{s}); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %v", point, err)
		}
	}
	unchanged(t, m, outside)
}

func TestNoLinkLeadsToALayerOfAnOverlay(t *testing.T) {
	m, outside := linked(t)
	for _, layer := range []string{"out", "out/below", "out/new", "in", "in/below", "in/new", "dangling", "dangling/new"} {
		for _, option := range []string{"lowerdir=", "lowerdir=" + m.Base + "/there:", "upperdir=", "workdir="} {
			s := &api.Storage{Driver: "overlayfs", Fstype: "overlay", MountPoint: m.Base + "/point"}
			s.Options = []string{option + m.Base + "/" + layer}
			if _, err := m.Mount(context.Background(), []*api.Storage{s}); !errors.Is(err, unix.ELOOP) {
				t.Errorf("%s%s: %v", option, layer, err)
			}
		}
	}
	unchanged(t, m, outside)
}

// While a link comes and goes in the place of a directory, last on a way or in its middle, nothing out of the base is opened or
// made.
func TestALinkThatComesAndGoesLeadsNowhere(t *testing.T) {
	m, outside := linked(t)
	stop := pathtest.Exchanging(m.Base+"/there", m.Base+"/out")
	opened, made := 0, 0
	for i := range 500 {
		for _, layer := range []string{"there", "there/below"} {
			directory, err := m.openLayer(m.Base + "/" + layer)
			if err != nil {
				continue
			}
			opened++
			// under either of its names: what is there has been moved
			where, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", directory.Fd()))
			if err != nil || !strings.HasPrefix(where, m.Base+"/") {
				t.Fatalf("opened %s, %v", where, err)
			}
			directory.Close()
		}
		s := &api.Storage{Driver: "local", Fstype: "local", MountPoint: fmt.Sprint(m.Base, "/there/below/", i)}
		if set, err := m.Mount(context.Background(), []*api.Storage{s}); err == nil {
			made++
			if err := m.Unmount(set); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop()
	if opened == 0 || made == 0 {
		t.Errorf("%d layers were opened and %d directories made: this test shows nothing", opened, made)
	}
	if entries, err := os.ReadDir(outside + "/below"); err != nil || len(entries) != 0 {
		t.Errorf("out of the base were made %v, %v", entries, err)
	}
}

// What is unmounted at last is not what a link leads to by then.
func TestNoLinkLeadsToWhatIsUnmounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	runtime.LockOSThread() // and it ends with this test, and its mounts with it
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err = errors.Join(err, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")); err != nil {
		t.Fatal(err)
	}
	m, outside := linked(t)
	other := outside + "/below"
	if err := unix.Mount("other", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(other, unix.MNT_DETACH) })
	s := &api.Storage{Driver: "ephemeral", Fstype: "tmpfs", MountPoint: m.Base + "/there/below"}
	set, err := m.Mount(context.Background(), []*api.Storage{s})
	if err != nil {
		t.Fatal(err)
	}
	moved := m.Base + "/moved"
	t.Cleanup(func() { unix.Unmount(filepath.Join(moved, "below"), unix.MNT_DETACH) })
	if err := errors.Join(os.Rename(m.Base+"/there", moved), os.Symlink(outside, m.Base+"/there")); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(set); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%v", err)
	}
	var system unix.Statfs_t
	if err := unix.Statfs(other, &system); err != nil || system.Type != unix.TMPFS_MAGIC {
		t.Errorf("what a link leads to was unmounted: %#x, %v", system.Type, err)
	}
}
