package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
)

func (a *agent) sizeOf(path string) uint64 {
	a.Helper()
	var s unix.Statfs_t
	a.must(unix.Statfs(path, &s))
	return s.Blocks * uint64(s.Bsize)
}

func TestAnEphemeralStorageGetsAnotherSize(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	memory := &api.Storage{
		Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: a.base + "/sandbox/shm",
		Options: []string{"size=1m", "fsgid=5", "noexec"},
	}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{memory}})
	a.must(os.WriteFile(memory.MountPoint+"/file", make([]byte, 1<<19), 0o600))
	update := func(options ...string) *api.UpdateEphemeralMountsRequest {
		return &api.UpdateEphemeralMountsRequest{Storages: []*api.Storage{
			{Driver: "ephemeral", Fstype: "tmpfs", Source: "shm", MountPoint: memory.MountPoint, Options: options},
		}}
	}
	a.do("UpdateEphemeralMounts", update("remount", "size=3m", "fsgid=5"))
	if got := a.sizeOf(memory.MountPoint); got != 3<<20 {
		t.Errorf("%d bytes", got)
	}
	a.do("UpdateEphemeralMounts", update())
	a.do("UpdateEphemeralMounts", update("remount,size=2m"))
	if got := a.sizeOf(memory.MountPoint); got != 2<<20 {
		t.Errorf("%d bytes", got)
	}
	if info, err := os.Stat(memory.MountPoint + "/file"); err != nil || info.Size() != 1<<19 {
		t.Errorf("what was in it: %v", err)
	}
	var s unix.Statfs_t
	if a.must(unix.Statfs(memory.MountPoint, &s)); s.Flags&unix.ST_NOEXEC == 0 {
		t.Error("an option that no request named has gone")
	}
	a.refused(codes.InvalidArgument, "Too small", "UpdateEphemeralMounts", update("size=4k"))
	a.refused(codes.InvalidArgument, "nonsense", "UpdateEphemeralMounts", update("nonsense=1"))
	a.refused(codes.InvalidArgument, "bind mount", "UpdateEphemeralMounts", update("bind"))
	a.refused(codes.InvalidArgument, "bind mount", "UpdateEphemeralMounts", update("rshared"))
}

// The kernel takes another size for a hugetlbfs, and makes nothing of it.
func TestAHugetlbfsGetsNoOtherSize(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	pages := &api.Storage{Driver: "ephemeral", Fstype: "hugetlbfs", MountPoint: a.base + "/sandbox/pages"}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{pages}})
	pages.Options = []string{"size=4m"}
	a.refused(codes.Unimplemented, "no tmpfs", "UpdateEphemeralMounts", &api.UpdateEphemeralMountsRequest{Storages: []*api.Storage{pages}})
}

func TestOnlyEphemeralStoragesAreUpdated(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	directory := &api.Storage{Driver: "local", Fstype: "local", MountPoint: a.base + "/sandbox/directory"}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{directory}})
	for _, test := range []struct {
		driver, point string
		code          codes.Code
		words         string
	}{
		{"local", directory.MountPoint, codes.InvalidArgument, "only ephemeral"},
		{"ephemeral", directory.MountPoint, codes.NotFound, "no ephemeral storage"},
		{"ephemeral", a.base + "/nowhere", codes.NotFound, "no ephemeral storage"},
		{"ephemeral", "/dev/shm", codes.InvalidArgument, "not below"},
		{"ephemeral", a.base + "/../run", codes.InvalidArgument, "normal form"},
	} {
		request := &api.Storage{Driver: test.driver, MountPoint: test.point, Options: []string{"size=1m"}}
		a.refused(test.code, test.words, "UpdateEphemeralMounts", &api.UpdateEphemeralMountsRequest{Storages: []*api.Storage{request}})
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if a.must(err); strings.Contains(string(text), a.base) {
		t.Errorf("something was mounted:\n%s", text)
	}
}

const mib = 1 << 20

// loopDisk makes a disk of a file that a program has written to, and returns its node.
func (a *agent) loopDisk(size int64, program ...string) string {
	a.Helper()
	file := filepath.Join(a.TempDir(), "disk")
	run := func(program string, args ...string) string {
		output, err := exec.Command(program, args...).CombinedOutput()
		if err != nil {
			a.Fatalf("%s %v: %v: %s", program, args, err, output)
		}
		return strings.TrimSpace(string(output))
	}
	a.must(os.WriteFile(file, nil, 0o600))
	a.must(os.Truncate(file, size))
	run(program[0], append(program[1:], file)...)
	node := run("losetup", "--find", "--show", file)
	a.Cleanup(func() { run("losetup", "--detach", node) })
	return node
}

// That a volume grows is a boot's to show (tests/boot/test_containers.py): this test may lack CAP_SYS_RESOURCE.
func TestVolumesThatAreNotResized(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	memory := &api.Storage{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: a.base + "/memory"}
	volume := &api.Storage{Driver: "blk", Fstype: "ext4", Source: a.loopDisk(8*mib, "mkfs.ext4", "-q"), MountPoint: a.base + "/volume"}
	fixed := &api.Storage{
		Driver: "blk", Fstype: "ext4", Source: a.loopDisk(8*mib, "mkfs.ext4", "-q"), MountPoint: a.base + "/fixed",
		Options: []string{"ro"},
	}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{memory, volume, fixed}})
	a.must(os.Symlink(volume.MountPoint, a.base+"/link"))
	a.must(os.Mkdir(a.base+"/directory", 0o755))
	for path, want := range map[string]struct {
		code  codes.Code
		words string
	}{
		memory.MountPoint:     {codes.Unimplemented, "no ext4"},
		volume.MountPoint:     {codes.FailedPrecondition, "the disk grows first"},
		fixed.MountPoint:      {codes.FailedPrecondition, "read-only"},
		a.base + "/directory": {codes.InvalidArgument, "no volume"},
		a.base:                {codes.InvalidArgument, "no volume"},
		a.base + "/link":      {codes.Internal, "link"},
		a.base + "/nowhere":   {codes.NotFound, "nowhere"},
		"/":                   {codes.InvalidArgument, "not below"},
		"":                    {codes.InvalidArgument, "normal form"},
	} {
		a.refused(want.code, want.words, "ResizeVolume", &api.ResizeVolumeRequest{VolumeGuestPath: path, Size: 9 * mib})
	}
}

func TestVolumesOfWhichNothingIsTold(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	memory := &api.Storage{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: a.base + "/memory"}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{memory}})
	a.must(os.Symlink(memory.MountPoint, a.base+"/link"))
	a.must(os.Symlink("/", a.base+"/out"))
	for path, want := range map[string]struct {
		code  codes.Code
		words string
	}{
		a.base + "/link":     {codes.Internal, "link"},
		a.base + "/out":      {codes.Internal, "link"},
		a.base + "/out/etc":  {codes.Internal, "link"},
		a.base + "/nowhere":  {codes.NotFound, "nowhere"},
		a.base + "/../":      {codes.InvalidArgument, "normal form"},
		a.base + "-beside":   {codes.InvalidArgument, "not below"},
		filepath.Dir(a.base): {codes.InvalidArgument, "not below"},
		"/":                  {codes.InvalidArgument, "not below"},
		"/proc":              {codes.InvalidArgument, "not below"},
		"run":                {codes.InvalidArgument, "normal form"},
		"":                   {codes.InvalidArgument, "normal form"},
	} {
		a.refused(want.code, want.words, "GetVolumeStats", &api.VolumeStatsRequest{VolumeGuestPath: path})
	}
}

// A volume that containers share outlives each of them, with what is in it.
func TestASharedVolumeOutlivesItsContainers(t *testing.T) {
	a := startSandbox(t)
	volume := &api.Storage{
		Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: a.base + "/shared/containers/volume", Shared: true,
	}
	for round, id := range []string{"one", "two"} {
		request := a.create(id, "exit", "0")
		request.Storages = []*api.Storage{volume}
		a.run(request)
		a.expect(a.exitCode(id, ""), int32(0), "exit code")
		if round == 0 {
			a.must(os.WriteFile(volume.MountPoint+"/file", nil, 0o600))
		}
		a.do("RemoveContainer", &api.RemoveContainerRequest{ContainerId: id})
		if _, err := os.Stat(volume.MountPoint + "/file"); err != nil {
			t.Errorf("after container %s: %v", id, err)
		}
	}
	a.do("DestroySandbox", &api.DestroySandboxRequest{})
	if text, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(text), a.base) {
		t.Errorf("something is still mounted:\n%s", text)
	}
}

// A file that is to come takes a directory's place, but for one with a storage in it.
func TestAFileTakesNoStoragesPlace(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	directory := a.base + "/shared/containers/directory"
	memory := &api.Storage{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: directory + "/volume"}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{memory}})
	for _, path := range []string{directory + "/beside", memory.MountPoint + "/file"} {
		a.do("CopyFile", &api.CopyFileRequest{Path: path, FileMode: 0o100600})
	}
	for _, path := range []string{directory, directory + "/", memory.MountPoint} {
		for _, request := range []*api.CopyFileRequest{
			{Path: path, FileMode: 0o100600}, {Path: path, FileMode: 0o120777, Data: []byte("x")},
		} {
			a.refused(codes.FailedPrecondition, "is mounted there", "CopyFile", request)
		}
	}
	for _, path := range []string{directory + "/beside", memory.MountPoint + "/file"} {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestADiskBecomesSwapSpace(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	node := a.loopDisk(8*mib, "mkswap", "-q")
	a.Cleanup(func() { exec.Command("swapoff", node).Run() }) // before the disk goes
	a.do("AddSwapPath", &api.AddSwapPathRequest{Path: node})
	if text, err := os.ReadFile("/proc/swaps"); err != nil || !strings.Contains(string(text), node+" ") {
		t.Errorf("%s is not among\n%s%v", node, text, err)
	}
	a.refused(codes.FailedPrecondition, "in use", "AddSwapPath", &api.AddSwapPathRequest{Path: node})
	other := a.loopDisk(8*mib, "mkfs.ext4", "-q")
	a.refused(codes.InvalidArgument, "mkswap", "AddSwapPath", &api.AddSwapPathRequest{Path: other})
}

func TestDisksThatAreNoSwapSpace(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	for path, code := range map[string]codes.Code{
		"": codes.InvalidArgument, "/etc/passwd": codes.InvalidArgument, "/dev/../etc/passwd": codes.InvalidArgument,
		"02/01": codes.InvalidArgument, "/dev/null": codes.NotFound,
	} {
		a.refused(code, "", "AddSwapPath", &api.AddSwapPathRequest{Path: path})
	}
	for _, slots := range [][]uint32{{}, {32}, {1, 1 << 31}, make([]uint32, 17)} {
		a.refused(codes.InvalidArgument, "PCI", "AddSwap", &api.AddSwapRequest{PCIPath: slots})
	}
	a.refused(codes.NotFound, "1f/0a did not come", "AddSwap", &api.AddSwapRequest{PCIPath: []uint32{0x1f, 0x0a}})
}

func TestMountsOfTheShareAreLookedAt(t *testing.T) {
	needRoot(t)
	a := startAgent(t)
	memory := &api.Storage{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: a.base + "/shared/containers/memory"}
	a.do("CreateSandbox", &api.CreateSandboxRequest{Storages: []*api.Storage{memory}})
	a.do("RemoveStaleVirtiofsShareMounts", &api.RemoveStaleVirtiofsShareMountsRequest{})
	if text, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(text), memory.MountPoint) {
		t.Errorf("one that the host has is gone: %v", err)
	}
}
