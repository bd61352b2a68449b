package device

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
)

const blockEvent = "add@/devices/pci0000:00/0000:00:02.0/virtio1/block/vda\x00ACTION=add\x00" +
	"DEVPATH=/devices/pci0000:00/0000:00:02.0/virtio1/block/vda\x00SUBSYSTEM=block\x00DEVNAME=vda\x00DEVTYPE=disk\x00"

func TestAnEventIsRead(t *testing.T) {
	got, err := ParseEvent([]byte(blockEvent))
	want := Event{"add", "/devices/pci0000:00/0000:00:02.0/virtio1/block/vda", "block", "vda"}
	if got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatIsNoEventIsRefused(t *testing.T) {
	for _, message := range []string{"", "add", "@/devices/x", "add@devices/x", "libudev\x00\xfe\xed\xca\xfe", strings.Repeat("a", ueventMax+1)} {
		if got, err := ParseEvent([]byte(message)); err == nil {
			t.Errorf("%.20q: %+v", message, got)
		}
	}
}

// Any process of the guest may send to the socket; only what has the kernel's address counts.
func TestOnlyTheKernelsEventsCount(t *testing.T) {
	kernel, other := &unix.SockaddrNetlink{Pid: 0}, &unix.SockaddrNetlink{Pid: 77}
	removed := strings.ReplaceAll(blockEvent, "add@", "remove@")
	for _, c := range []struct {
		message string
		from    unix.Sockaddr
		want    bool
	}{
		{blockEvent, kernel, true}, {blockEvent, other, false}, {removed, kernel, false}, {"junk", kernel, false},
		{strings.ReplaceAll(blockEvent, "=block", "=net"), kernel, false},
	} {
		if got := concerns([]byte(c.message), c.from); got != c.want {
			t.Errorf("%.20q from %v: %v", c.message, c.from, got)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(blockEvent))
	f.Add([]byte("add@/\x00\x00=\x00SUBSYSTEM"))
	f.Fuzz(func(t *testing.T, message []byte) {
		if event, err := ParseEvent(message); err == nil && !strings.HasPrefix(event.Devpath, "/") {
			t.Errorf("%+v", event)
		}
	})
}

// machine is a sysfs and a /dev; a "disk" in it is a link to a block device of the host if there is one.
type machine struct {
	*testing.T
	Finder
}

func newMachine(t *testing.T) *machine {
	directory := t.TempDir()
	m := &machine{t, Finder{
		Sys: directory + "/sys", Dev: directory + "/dev", Timeout: 2 * time.Second,
		Watch: &Watch{subscribers: map[chan struct{}]struct{}{}},
	}}
	m.mkdir("dev")
	return m
}

func (m *machine) mkdir(path string) {
	m.Helper()
	if err := os.MkdirAll(filepath.Join(filepath.Dir(m.Sys), path), 0o755); err != nil {
		m.Fatal(err)
	}
}

// node makes a device node, which takes root.
func (m *machine) node(name string, mode uint32) {
	m.Helper()
	if os.Getuid() != 0 {
		m.Skip("device nodes need root")
	}
	if err := unix.Mknod(filepath.Join(m.Dev, name), mode|0o600, int(unix.Mkdev(7, 200))); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) find(parse func(string) (Address, error), source string) (string, error) {
	m.Helper()
	address, err := parse(source)
	if err != nil {
		m.Fatal(err)
	}
	node, err := m.Wait(context.Background(), address)
	return strings.TrimPrefix(node, m.Dev+"/"), err
}

func TestDisksAreFoundByTheirAddresses(t *testing.T) {
	m := newMachine(t)
	m.node("vda", unix.S_IFBLK)
	m.mkdir("sys/class/block/vda")
	m.mkdir("sys/devices/pci0000:00/0000:00:02.0/pci_bus/0000:01")
	m.mkdir("sys/devices/pci0000:00/0000:00:02.0/0000:01:1f.3/virtio4/block/vda")
	m.mkdir("sys/devices/platform/4010000000.pcie/pci0000:00/0000:00:05.0/virtio1/block/vda")
	m.mkdir("sys/devices/platform/soc/30000000.pci/pci0000:00/0000:00:06.0/virtio3/block/vda")
	m.mkdir("sys/devices/pci0000:20/0000:20:00.0/pci_bus/0000:21")
	m.mkdir("sys/devices/pci0000:20/0000:20:00.0/0000:21:03.0/virtio5/block/vda")
	m.mkdir("sys/devices/css0/0.0.0001/0.0.0005/virtio2/block/vda")
	m.mkdir("sys/class/scsi_device/2:0:0:3/device/block/vda")
	for source, parse := range map[string]func(string) (Address, error){
		"/dev/vda": NodeOrPCI, "02/1f.3": NodeOrPCI, "05": NodeOrPCI, "06": NodeOrPCI, "20/00/03": NodeOrPCI,
		"0.0.0005": CCW, "0:3": SCSI,
	} {
		if got, err := m.find(parse, source); got != "vda" || err != nil {
			t.Errorf("%s: %q, %v", source, got, err)
		}
	}
}

func TestAScsiBusIsScannedForADiskThatIsNotThere(t *testing.T) {
	m := newMachine(t)
	m.Timeout = 10 * time.Millisecond
	m.mkdir("sys/class/scsi_host/host3")
	scan := m.Sys + "/class/scsi_host/host3/scan"
	if err := os.WriteFile(scan, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.find(SCSI, "1:2"); err == nil {
		t.Error("found")
	}
	if text, _ := os.ReadFile(scan); string(text) != "0 1 2" {
		t.Errorf("scan got %q", text)
	}
}

func TestADiskThatComesLaterIsFoundAtItsEvent(t *testing.T) {
	m := newMachine(t)
	m.Timeout = 10 * time.Second
	m.node("vdb", unix.S_IFBLK)
	go func() {
		time.Sleep(20 * time.Millisecond)
		m.mkdir("sys/class/block/vdb")
		m.Watch.wake()
	}()
	begun := time.Now()
	if got, err := m.find(Node, "/dev/vdb"); got != "vdb" || err != nil || time.Since(begun) > 5*time.Second {
		t.Errorf("%q, %v after %v", got, err, time.Since(begun))
	}
}

func TestADiskThatNeverComesEndsTheWait(t *testing.T) {
	m := newMachine(t)
	m.Timeout = 30 * time.Millisecond
	_, err := m.find(NodeOrPCI, "02/01")
	if own, ok := err.(*fault.Error); !ok || own.Code != codes.NotFound {
		t.Errorf("%v", err)
	}
	if len(m.Watch.subscribers) != 0 {
		t.Error("the subscription is still there")
	}
}

func TestWhatIsNoBlockDeviceIsRefused(t *testing.T) {
	m := newMachine(t)
	m.node("vda", unix.S_IFCHR)
	m.mkdir("sys/class/block/vda")
	if got, err := m.find(Node, "/dev/vda"); err == nil {
		t.Errorf("found %q", got)
	}
}

// A disk of another root bus has the same slots.
func TestADiskOfAnotherRootBusIsNotMeant(t *testing.T) {
	m := newMachine(t)
	m.Timeout = 10 * time.Millisecond
	m.node("vda", unix.S_IFBLK)
	m.mkdir("sys/class/block/vda")
	m.mkdir("sys/devices/pci0000:40/0000:40:00.0/pci_bus/0000:41")
	m.mkdir("sys/devices/pci0000:40/0000:40:00.0/0000:41:02.0/virtio5/block/vda")
	for _, source := range []string{"00/02", "20/00/02"} {
		if got, err := m.find(NodeOrPCI, source); err == nil {
			t.Errorf("%s: %s", source, got)
		}
	}
}

func TestMalformedAddressesAreRefused(t *testing.T) {
	for source, parse := range map[string]func(string) (Address, error){
		"/dev/../etc/passwd": NodeOrPCI, "/dev/": Node, "/dev/a/b": Node, "vda": NodeOrPCI, "": NodeOrPCI, "2/1": NodeOrPCI,
		"02/*": NodeOrPCI, "02/01.8": NodeOrPCI, "02//01": NodeOrPCI,
		"20": NodeOrPCI, "20/02": NodeOrPCI, "02/20": NodeOrPCI, "20/02/20": NodeOrPCI, "20.1/00/02": NodeOrPCI,
		"20/20/00/02": NodeOrPCI, "0:*": SCSI, "0": SCSI, "0.0.*": CCW, "0.0.00050": CCW,
	} {
		if got, err := parse(source); err == nil {
			t.Errorf("%q: %v", source, got)
		}
	}
}
