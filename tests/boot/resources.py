"""What a container may take of a guest's swap space, disks, huge pages and files, asked of a real guest."""

import json
from dataclasses import replace
from itertools import count

import pytest

from guestforge.agent.errors import Code, RpcError
from guestforge.agent.metrics import MEMINFO, held, parse_metrics
from guestforge.agent.proto import oci_pb2
from guestforge.agent.spec import container_spec, process
from guestforge.agent.storage import Storage
from guestforge.check.stage import with_cgroup
from guestforge.core.run import run
from guestforge.vmm.argv import disk_address
from guestforge.vmm.plan import Disk

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SWAP = 8 * MIB
PAGES = "/sys/kernel/mm/hugepages"
FAMILIES = """
    kata_guest_load kata_guest_tasks kata_guest_cpu_time kata_guest_vm_stat kata_guest_netdev_stat kata_guest_diskstat
    kata_guest_meminfo kata_agent_scrape_count kata_agent_threads kata_agent_total_time kata_agent_total_vm
    kata_agent_total_rss kata_agent_proc_status kata_agent_io_stat kata_agent_proc_stat
"""
# A file of the guest's; or the limits of a process that has just become a program, which Go's own start changes; or so
# many huge pages of a file, mapped and written to.
FILES = """package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

func cat(path string) {
	text, err := os.ReadFile(path)
	fmt.Print(string(text))
	if err != nil {
		fmt.Print(err)
	}
}

// limits has a process stop at its first instruction.
func limits() {
	runtime.LockOSThread()
	child, err := os.StartProcess("/files", []string{"files"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		panic(err)
	}
	if _, err := syscall.Wait4(child.Pid, nil, 0, nil); err != nil {
		panic(err)
	}
	cat(fmt.Sprintf("/proc/%d/limits", child.Pid))
	child.Kill()
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	switch os.Args[1] {
	case "cat":
		cat(os.Args[2])
		return
	case "limits":
		limits()
		return
	}
	count, size := number(os.Args[3]), number(os.Args[4])
	file, err := os.OpenFile(os.Args[2], os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	mapped, err := syscall.Mmap(int(file.Fd()), 0, count*size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		fmt.Print(err)
		return
	}
	for page := range count {
		mapped[page*size] = 1
	}
	fmt.Print(count, " pages")
}
"""


def refused(code, words=""):
    """Expect that the agent refuses."""
    return pytest.raises(RpcError, match=f"{Code(code).name}.*{words}")


def disks(directory, page_size):
    """Make a disk with swap space on it, for a kernel with pages of this size, and one with nothing."""
    paths = [directory / "swap", directory / "blank"]
    for path in paths:
        path.write_bytes(bytes(SWAP))
    run(["mkswap", "--pagesize", str(page_size), str(paths[0])])
    return tuple(map(Disk, paths))


def are_served(agent, arch, root, page_size):
    """Ask for all of them. A container `counts` is there, which sees the guest's sysfs; the disks are the last two."""
    counts = asker(agent, "counts")
    swap_space_is_added(agent, arch, page_size)
    families = {sample.name for sample in parse_metrics(agent.metrics())}
    assert set(FAMILIES.split()) <= families
    limits_are_those_of_the_spec(agent, root, counts("/files", "cat", "/sys/block/vda/dev").strip())
    huge_pages_are_there(agent, root, smallest_pages(counts), counts)


def asker(agent, container):
    """Return what runs a program in a container and returns what that says, on whichever stream."""
    numbers = count()

    def ask(*args, **process_options):
        exec_id = f"asked-{next(numbers)}"
        agent.exec_process(container, exec_id, process(args, **process_options))
        said = agent.read_stdout(container, exec_id, limit=64 * KIB, timeout=30)
        said += agent.read_stderr(container, exec_id, limit=64 * KIB, timeout=30)
        agent.wait_process(container, exec_id, timeout=30)
        return said.decode()

    return ask


def swap_space_is_added(agent, arch, page_size):
    def total():
        samples = parse_metrics(agent.metrics())
        return [each.value for each in samples if each.name == MEMINFO and each.labels["item"] == "swap_total"]

    assert total() == [0]
    if arch.virtio_bus == "pci":
        agent.add_swap([int(disk_address(arch, 1), 16)])
    else:
        with refused(Code.NOT_FOUND):
            agent.add_swap([0x1F])
        agent.add_swap_path("/dev/vdb")
    assert total() == [SWAP - page_size]
    with refused(Code.FAILED_PRECONDITION):
        agent.add_swap_path("/dev/vdb")
    with refused(Code.INVALID_ARGUMENT, "mkswap"):
        agent.add_swap_path("/dev/vdc")


def limits_are_those_of_the_spec(agent, root, disk):
    spec = container_spec("limited", root, process(["/probe", "sleep", "120"]))
    with_cgroup(spec)
    resources, (major, minor) = spec.Linux.Resources, map(int, disk.split(":"))
    resources.Memory.Limit, resources.Memory.Swap = 64 * MIB, 80 * MIB
    for kind, rate in (("ReadBps", GIB), ("WriteBps", GIB // 2), ("ReadIOPS", 30_000), ("WriteIOPS", 40_000)):
        getattr(resources.BlockIO, f"Throttle{kind}Device").add(Major=major, Minor=minor, Rate=rate)
    resources.BlockIO.Weight = 500  # which our kernels do without
    resources.HugepageLimits.add(Pagesize="3MB")  # a size of the host's
    spec.Process.Rlimits.add(Type="RLIMIT_NOFILE", Soft=2000, Hard=3_000_000)
    spec.Linux.Sysctl.update({"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"})
    agent.create_container("limited", spec)
    agent.start_container("limited")
    ask = asker(agent, "limited")
    assert ask("/files", "cat", "/sys/fs/cgroup/memory.swap.max").strip() == str(16 * MIB)
    assert ask("/files", "cat", "/proc/sys/net/ipv4/ping_group_range").split() == ["0", "2147483647"]
    assert ask("/files", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").strip() == "0"
    calls = json.loads(ask("/probe", "attempt"))["calls"]
    assert (calls["swapon"], calls["swapoff"]) == ("EPERM", "EPERM")
    limits_of_disks_are_changed(agent, ask, disk)
    limits_of_processes_are_those_of_their_own(agent, ask)
    agent.remove_container("limited", 20)
    before = held(parse_metrics(agent.metrics()))["cgroups"]
    resources.BlockIO.ThrottleWriteBpsDevice.add(Major=4095, Minor=0, Rate=GIB)
    with refused(Code.INVALID_ARGUMENT, "no such disk"):
        agent.create_container("limited", spec)
    assert held(parse_metrics(agent.metrics()))["cgroups"] == before


def limits_of_disks_are_changed(agent, ask, disk):
    def limits():
        return ask("/files", "cat", "/sys/fs/cgroup/io.max").strip()

    assert limits() == f"{disk} rbps={GIB} wbps={GIB // 2} riops=30000 wiops=40000"
    major, minor = map(int, disk.split(":"))
    changed = oci_pb2.LinuxResources()
    changed.BlockIO.ThrottleReadBpsDevice.add(Major=major, Minor=minor)
    changed.BlockIO.ThrottleReadIOPSDevice.add(Major=major, Minor=minor, Rate=50_000)
    agent.update_container("limited", changed)
    assert limits() == f"{disk} rbps=max wbps={GIB // 2} riops=50000 wiops=40000"
    changed.BlockIO.ThrottleReadBpsDevice.add(Major=4095, Minor=0, Rate=GIB)
    with refused(Code.INVALID_ARGUMENT, "no such disk"):
        agent.update_container("limited", changed)


def limits_of_processes_are_those_of_their_own(agent, ask):
    """The first process's are the spec's; Go's start has made the soft limit of files the hard one there."""

    def said(text):
        return {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}

    assert said(ask("/files", "cat", "/proc/1/limits"))["Max open files"][1] == "3000000"
    assert said(ask("/files", "limits"))["Max open files"] == ["1024", str(1 << 20)]
    wanted = process(["/files", "limits"])
    for kind, soft, hard in (("NOFILE", 2000, 3_000_000), ("CORE", 1, 2), ("MSGQUEUE", 10, 20)):
        wanted.Rlimits.add(Type=f"RLIMIT_{kind}", Soft=soft, Hard=hard)
    agent.exec_process("limited", "few", wanted)
    found = said(agent.read_stdout("limited", "few", limit=4 * KIB, timeout=30).decode())
    names = ("Max open files", "Max core file size", "Max msgqueue size")
    assert [found[name] for name in names] == [["2000", "3000000"], ["1", "2"], ["10", "20"]]
    wanted.Rlimits[0].Hard = GIB + 1
    with refused(Code.INVALID_ARGUMENT, str(GIB)):
        agent.exec_process("limited", "many", wanted)


def smallest_pages(counts):
    """Return the size of the smallest huge pages that the guest's kernel has, in bytes; None where it has none."""
    names = json.loads(counts("/probe", "list", PAGES)).get("names", [])
    return min((int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names), default=0) * KIB or None


def called(size):
    """Return how the OCI specification writes a size of pages."""
    return f"{size // MIB}MB" if size >= MIB else f"{size // KIB}KB"


def huge_pages_are_there(agent, root, size, counts):
    """A volume of four pages, of which the container may have three, then six."""
    spec = container_spec("paged", root, process(["/probe", "sleep", "120"]))
    with_cgroup(spec)
    options = (f"pagesize={size},size={4 * size}", "fsgid=1234") if size else ()
    pages = Storage("ephemeral", "nodev", "hugetlbfs", "/run/kata-containers/sandbox/ephemeral/pages", options)
    spec.Mounts.add(destination="/volume", source=pages.mount_point, type="bind", options=["rbind"])
    if size is None:  # an emulated processor of s390x has none
        with refused(Code.UNIMPLEMENTED, "huge pages"):
            agent.create_container("paged", spec, storages=[pages])
        return

    def there():
        return counts("/files", "cat", f"{PAGES}/hugepages-{size // KIB}kB/nr_hugepages").strip()

    with refused(Code.RESOURCE_EXHAUSTED, "huge pages"):
        agent.create_container("paged", spec, storages=[replace(pages, options=(f"pagesize={size},size=1g",))])
    assert there() == "0"
    spec.Linux.Resources.HugepageLimits.append(page_limit(size, 3))
    agent.create_container("paged", spec, storages=[pages])
    assert there() == "4"
    agent.start_container("paged")
    huge_pages_are_limited(agent, asker(agent, "paged"), size)
    with refused(Code.UNIMPLEMENTED):
        agent.update_ephemeral_mounts([replace(pages, options=("remount", f"size={8 * size}"))])
    agent.remove_container("paged", 20)
    assert there() == "0"


def page_limit(size, number):
    return oci_pb2.LinuxHugepageLimit(Pagesize=called(size), Limit=number * size)


def huge_pages_are_limited(agent, ask, size):
    def write(number):
        return ask("/files", "pages", "/volume/file", str(number), str(size))

    volume = json.loads(ask("/probe", "stat", "/volume"))
    assert (volume["gid"], volume["mode"]) == (1234, 0o2755)
    assert ask("/files", "cat", f"/sys/fs/cgroup/hugetlb.{called(size)}.max").strip() == str(3 * size)
    assert write(3) == "3 pages"
    assert json.loads(ask("/probe", "stat", "/volume/file"))["gid"] == 1234
    assert write(4) == "cannot allocate memory"  # its own limit
    agent.update_container("paged", oci_pb2.LinuxResources(HugepageLimits=[page_limit(size, 6)]))
    assert write(4) == "4 pages"
    assert write(5) == "cannot allocate memory"  # the volume's
