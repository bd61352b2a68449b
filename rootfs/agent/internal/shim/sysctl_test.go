package shim

import (
	"strings"
	"testing"
)

func TestKernelParametersOfAContainer(t *testing.T) {
	for _, name := range []string{
		"net.ipv4.ip_unprivileged_port_start", "net.ipv4.conf.eth0/1.forwarding", "kernel.shmmax", "kernel.shm_rmid_forced",
		"kernel.msgmnb", "kernel.sem", "fs.mqueue.msg_max",
	} {
		if err := CheckSysctls(map[string]string{name: "1"}); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{
		"", "kernel.core_pattern", "kernel.sempiternal", "vm.swappiness", "fs.file-max", "net", "net../../kernel", "kernel.shm/../core",
		"net.ipv4\x00", "net.ipv4 x", "kernel.msgmax.x",
		"net.//.kernel.core_pattern", "net.ipv4.//.//.kernel.modprobe", "net.", "net..ipv4",
	} {
		if CheckSysctls(map[string]string{name: "1"}) == nil {
			t.Errorf("%q is a container's", name)
		}
	}
	for _, value := range []string{"1\n2", "\x00", strings.Repeat("1", maxSysctlValue+1)} {
		if CheckSysctls(map[string]string{"kernel.sem": value}) == nil {
			t.Errorf("%.10q is a value", value)
		}
	}
	for name, path := range map[string]string{"kernel.sem": "kernel/sem", "net.ipv4.conf.eth0/1.forwarding": "net/ipv4/conf/eth0.1/forwarding"} {
		if got := sysctlPath(name); got != path {
			t.Errorf("%s: %s", name, got)
		}
	}
}
