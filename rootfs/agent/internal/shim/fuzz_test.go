package shim

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/mount"
)

// FuzzSysctls looks where a parameter that is a container's would be written.
func FuzzSysctls(f *testing.F) {
	for _, seed := range []string{"net.ipv4.conf.eth0/1.forwarding", "kernel.shmmax", "kernel.sem", "fs.mqueue.msg_max", "net/../x",
		"net.//.kernel.core_pattern", "net.", "net..x", "net.a.//.//.kernel.modprobe"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckSysctls(map[string]string{name: "1"}) != nil {
			return
		}
		where := path.Join("/", sysctlPath(name))
		for _, own := range []string{"/net/", "/fs/mqueue/", "/kernel/shm", "/kernel/msg", "/kernel/sem"} {
			if strings.HasPrefix(where, own) {
				return
			}
		}
		t.Errorf("%q is a container's, and it is %s", name, where)
	})
}

// FuzzMounts checks what is said of a container's mounts and devices: no source of a bind mount is out of the base.
func FuzzMounts(f *testing.F) {
	f.Add("/data", "bind", "/base/volume", "rbind,ro")
	f.Add("/data", "tmpfs", "/base/../etc", "bind")
	f.Add("data", "proc", "/etc", "")
	f.Fuzz(func(t *testing.T, destination, kind, source, options string) {
		one := &api.Mount{Destination: destination, Type: kind, Source: source, Options: strings.Split(options, ",")}
		if err := CheckDevices([]*api.LinuxDevice{{Path: destination, Type: kind}}); err == nil && path.Dir(destination) == "/" {
			t.Errorf("a device at %q", destination)
		}
		if CheckMounts([]*api.Mount{one}, "/base") != nil {
			return
		}
		parsed, err := mount.ParseOptions(one.Options)
		if err != nil {
			t.Fatal(err)
		}
		bound := parsed.Bind || kind == "bind"
		if bound && !strings.HasPrefix(path.Clean(source)+"/", "/base/") {
			t.Errorf("%q is bound", source)
		}
		if !bound && containerTypes[kind] == "" {
			t.Errorf("file system type %q", kind)
		}
	})
}

// FuzzHome reads any passwd, which is a container's own to write.
func FuzzHome(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\nuser:x:7:7::/home/user:\n"), uint32(7))
	f.Add([]byte("::0:::/\x00:"), uint32(0))
	f.Fuzz(func(t *testing.T, text []byte, uid uint32) {
		passwd := filepath.Join(t.TempDir(), "passwd")
		if err := os.WriteFile(passwd, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := home(passwd, uid); !strings.HasPrefix(got, "/") || strings.ContainsAny(got, "\x00\n") {
			t.Errorf("%q is the home of %d", got, uid)
		}
	})
}
