package mount

import (
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOptionsAreSorted(t *testing.T) {
	got, err := ParseOptions([]string{"ro,nosuid", "size=1m", "noatime", "rslave", "data=ordered,,dax", "sync"})
	want := Options{
		Set:        unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOATIME,
		clear:      unix.MOUNT_ATTR__ATIME &^ unix.MOUNT_ATTR_NOATIME,
		Superblock: []string{"ro", "sync"}, Data: []string{"size=1m", "data=ordered", "dax"},
		Propagation: unix.MS_SLAVE, deep: true,
	}
	want.clear |= got.clear & unix.MOUNT_ATTR__ATIME // which of the bits of the field are cleared is the next test's
	if !reflect.DeepEqual(got, want) || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestTheLastOptionWins(t *testing.T) {
	got, _ := ParseOptions([]string{"ro,rw,nodev,dev,noatime,strictatime,exec,noexec"})
	if want := uint64(unix.MOUNT_ATTR_STRICTATIME | unix.MOUNT_ATTR_NOEXEC); got.Set != want {
		t.Errorf("set %#x, not %#x", got.Set, want)
	}
	if got.clear&unix.MOUNT_ATTR_RDONLY == 0 || got.clear&unix.MOUNT_ATTR_NOEXEC != 0 {
		t.Errorf("clear %#x", got.clear)
	}
	if got, _ = ParseOptions([]string{"relatime"}); got.Set != 0 || len(got.Data) != 0 {
		t.Errorf("relatime: %+v", got)
	}
}

func TestBindOptions(t *testing.T) {
	for option, recursive := range map[string]bool{"bind": false, "rbind": true} {
		if got, err := ParseOptions([]string{option}); !got.Bind || got.Recursive != recursive || err != nil {
			t.Errorf("%s: %+v, %v", option, got, err)
		}
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	for _, options := range [][]string{
		{"remount"}, {"a\x00b"}, {strings.Repeat("x", maxOption+1)}, {strings.Repeat("x,", maxOptions+1)},
	} {
		if got, err := ParseOptions(options); err == nil {
			t.Errorf("%.20q: %+v", options, got)
		}
	}
}

func TestMountTables(t *testing.T) {
	got := ParseTable("21 1 0:20 / / rw,relatime - ext4 /dev/root rw\nnonsense\n" +
		"22 21 0:5 / /a\\040b\\134 rw shared:1 - tmpfs none rw\n23 21 0:6 /x /run/k/s rw - virtiofs tag rw\n")
	want := []Entry{{"/", "ext4", "/dev/root"}, {"/a b\\", "tmpfs", "none"}, {"/run/k/s", "virtiofs", "tag"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	table := []Entry{{Target: "/run/k"}, {Target: "/run/kx"}, {Target: "/run/k/s"}, {Target: "/run"}}
	if got := Below(table, "/run/k"); !reflect.DeepEqual(got, []string{"/run/k/s", "/run/k"}) {
		t.Errorf("%v", got)
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("ro,nosuid,size=1m,rprivate")
	f.Fuzz(func(t *testing.T, list string) {
		if o, err := ParseOptions([]string{list}); err == nil && o.Set&unix.MOUNT_ATTR__ATIME == unix.MOUNT_ATTR__ATIME {
			t.Errorf("%q: two times of access: %#x", list, o.Set)
		}
	})
}
