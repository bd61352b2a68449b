"""What a runtime does with a container that runs: limits, stats, a pause, and being told that memory has run out."""

import contextlib
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import count

import pytest
import resources

from guestforge.agent.errors import Code, RpcError
from guestforge.agent.proto import oci_pb2, types_pb2
from guestforge.agent.spec import container_spec, limits, process
from guestforge.agent.storage import Storage
from guestforge.agent.tasks import Status, TaskService
from guestforge.arch import PPC64LE
from guestforge.check import containers, isolation, live
from guestforge.check.checks import CHECKS, use_containers
from guestforge.rootfs.agent import PROBE
from guestforge.rootfs.tree import File, Symlink

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]

MIB = 1 << 20
BASE = "/run/kata-containers"
HARDWARE = "52:54:00:12:34:56"
# It says how often it came by, every 20 ms; or how large its volume is; or takes memory for as long as there is some.
PROGRAM = """package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	if os.Args[1] == "end" {
		return
	}
	if os.Args[1] == "space" {
		var s syscall.Statfs_t
		if err := syscall.Statfs("/volume", &s); err != nil {
			panic(err)
		}
		fmt.Print(s.Blocks * uint64(s.Bsize))
		return
	}
	if os.Args[1] == "count" {
		for number := 0; ; number++ {
			fmt.Println(number)
			time.Sleep(20 * time.Millisecond)
		}
	}
	var taken [][]byte
	for {
		piece := make([]byte, 1<<20)
		for at := 0; at < len(piece); at += 4096 {
			piece[at] = 1
		}
		taken = append(taken, piece)
	}
}
"""


def refused(code):
    return pytest.raises(RpcError, match=Code(code).name)


@pytest.mark.usefixtures("plugged")
def test_a_container_is_changed_measured_paused_and_missed(started, go_program, pipeline, arch_row):
    one = pipeline(arch_row.name)
    probe = File("/probe", one.entry(one.steps.probe).file(PROBE), 0o755)
    more = [File("/program", go_program(arch_row, PROGRAM), 0o755), probe, Symlink("/var/run", "/run/none")]
    more.append(File("/files", go_program(arch_row, resources.FILES, "files"), 0o755))
    with started(arch_row, "builtin", more=more) as (guest, storages):
        disk = storages["virtio-blk"]
        guest.run_program(disk, ["/program", "end"], 30, 4096)  # the agent mounts it
        agent = guest._agent
        a_pod_shares_its_pid_namespace(agent, disk.mount_point)

        def begin(name, *args, memory):
            spec = container_spec(name, disk.mount_point, process(["/program", *args]))
            spec.Linux.Resources.Memory.Limit = memory
            agent.create_container(name, spec)
            agent.start_container(name)

        begin("counts", "count", memory=64 * MIB)
        limits_are_changed(agent)
        a_task_lives_and_ends(agent, disk.mount_point)
        a_terminal_is_resized(agent)
        namespaces_are_the_sandboxs(agent, disk.mount_point)
        a_mount_is_where_its_link_leads(agent, disk.mount_point)
        who_asks_for_no_capabilities_has_none(agent)
        a_hook_runs_before_the_program(agent, disk.mount_point)
        network_is_set_up(agent)
        volumes_change(agent, disk.mount_point)
        guest.run_program(storages["virtio-fs"], ["/program", "end"], 30, 4096)
        a_volume_is_watched(agent, disk.mount_point, storages["virtio-fs"].place)
        resources.are_served(agent, arch_row, disk.mount_point, page_size(arch_row))
        it_is_paused(agent)
        begin("hungry", "take", memory=32 * MIB)
        assert agent.oom_event(timeout=60) == "hungry"
        assert agent.wait_process("hungry", timeout=30) == 128 + 9
        with refused(Code.DEADLINE_EXCEEDED):  # it is told once
            agent.oom_event(timeout=0.5)
        agent.online()
        agent.probe_memory([])
        for name in ("hungry", "counts"):
            agent.remove_container(name, 20)
        for call in (agent.stats_container, agent.pause_container, agent.resume_container):
            with refused(Code.NOT_FOUND):
                call("counts")
        guest.power_off(30)


@pytest.mark.timeout(300)
def test_containers_hold_to_their_whole_extent(rig, arch_row):
    """What each check of a build does less often."""
    whole = {
        "container": lambda boot: use_containers(boot, partial(containers.prove, extent=containers.WHOLE)),
        "isolation": lambda boot: use_containers(boot, partial(isolation.prove, extent=isolation.WHOLE)),
    }
    table = tuple(replace(check, run=whole.get(check.name, check.run)) for check in CHECKS)
    outcome = rig.check(arch_row.name, timeout=200, table=table)
    found = {result.name: result.detail for result in outcome.report.checks}
    assert outcome.failures == []
    assert "50 processes at once; 16777216 bytes through one; 100 rounds" in found["container"]


def page_size(arch):
    """Return the size of the pages of an architecture's kernel."""
    return 65536 if arch is PPC64LE else 4096


@pytest.fixture
def plugged(monkeypatch, arch_row, tmp_path):
    """Have machines under check have a network interface, on a network of QEMU's own that leads nowhere.

    And two disks more, one of them with swap space; and the file system on the first is smaller than its disk.
    """
    real = live.machine_plan
    disks = resources.disks(tmp_path, page_size(arch_row))

    def plan(wanted, *args):
        for storage in wanted.storages:
            if storage.check == "virtio-blk":
                os.truncate(storage.place, 128 * MIB)
        made, words = real(wanted, *args)
        device = f"virtio-net-{made.arch.virtio_bus},netdev=n,mac={HARDWARE}"
        extra = (*made.extra, "-netdev", "user,id=n,restrict=on", "-device", device)
        return replace(made, extra=extra, disks=(*made.disks, *disks)), words

    monkeypatch.setattr(live, "machine_plan", plan)


def a_task_lives_and_ends(agent, root):
    tasks = TaskService(agent)
    tasks.create("task", container_spec("task", root, process(["/probe", "sleep", "120"])))
    assert tasks.state("task").status is Status.CREATED
    tasks.start("task")
    tasks.exec("task", "e", process(["/probe", "exit", "42"]))
    tasks.start("task", "e", timeout=30)
    assert tasks.wait("task", "e", timeout=30).status == 42
    assert tasks.delete("task", "e").status == 42
    assert tasks.pids("task") == ("",)
    tasks.pause("task")
    assert tasks.state("task").status is Status.PAUSED
    tasks.resume("task")
    tasks.kill("task", number=signal.SIGKILL)
    assert tasks.wait("task", timeout=30).status == 128 + 9
    assert tasks.delete("task").status == 128 + 9


def volumes_change(agent, root):
    """Each change of a volume is seen by a container that has it."""
    memory = Storage("ephemeral", "tmpfs", "tmpfs", f"{BASE}/sandbox/ephemeral/memory", ("size=1m",))
    spec = container_spec("volumes", root, process(["/probe", "sleep", "120"]))
    spec.Mounts.add(destination="/volume", source=memory.mount_point, type="bind", options=["rbind"])
    agent.create_container("volumes", spec, storages=[memory])
    agent.start_container("volumes")

    def space(exec_id):
        agent.exec_process("volumes", exec_id, process(["/program", "space"]))
        return int(agent.read_stdout("volumes", exec_id, timeout=30))

    assert space("before") == 1 * MIB
    agent.update_ephemeral_mounts([replace(memory, options=("remount", "size=3m"))])
    assert space("after") == 3 * MIB
    with refused(Code.NOT_FOUND):
        agent.update_ephemeral_mounts([replace(memory, mount_point=f"{BASE}/sandbox/ephemeral/other")])
    agent.remove_container("volumes", 20)
    assert agent.volume_stats(root).bytes.total < 64 * MIB
    agent.resize_volume(root, 96 * MIB)
    assert 80 * MIB < agent.volume_stats(root).bytes.total < 96 * MIB
    agent.resize_volume(root)
    assert 112 * MIB < agent.volume_stats(root).bytes.total < 128 * MIB
    with refused(Code.INVALID_ARGUMENT):
        agent.resize_volume(root, 64 * MIB)


def a_volume_is_watched(agent, root, share):
    """What the host changes in a volume of the share, as Kubernetes does, comes to a copy that a container has."""
    config = share / "config"
    (share / "watchable").mkdir()

    def publish(version):
        (config / f"..{version}").mkdir(parents=True)
        (config / f"..{version}" / "key").write_text(version)
        (config / "..new").symlink_to(f"..{version}")
        (config / "..new").rename(config / "..data")

    publish("first")
    (config / "key").symlink_to("..data/key")
    points = f"{BASE}/shared/containers"
    volume = Storage("watchable-bind", f"{points}/config", "bind", f"{points}/watchable/config", ("rbind", "ro"))
    spec = container_spec("watches", root, process(["/probe", "sleep", "120"]))
    spec.Mounts.add(destination="/config", source=volume.mount_point, type="bind", options=["rbind", "ro"])
    agent.create_container("watches", spec, storages=[volume])
    agent.start_container("watches")
    names = map(str, count())

    def ask(*args):
        exec_id = next(names)
        agent.exec_process("watches", exec_id, process(["/probe", *args]))
        return json.loads(agent.read_stdout("watches", exec_id, timeout=30))

    assert ask("read", "/config/key")["size"] == len("first")
    assert [mount["fstype"] for mount in ask("mounts")["mounts"] if mount["target"] == "/config"] == ["tmpfs"]
    publish("another")
    shutil.rmtree(config / "..first")
    deadline = time.monotonic() + 15
    while ask("read", "/config/key")["size"] != len("another"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert ask("stat", "/config/..data")["target"] == "..another"
    while ask("list", "/config")["names"] != ["..another", "..data", "key"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    agent.remove_container("watches", 20)
    assert list((share / "watchable").iterdir()) == []


def a_terminal_is_resized(agent):
    shell = process(["/probe", "terminal"])
    shell.Terminal = True
    agent.exec_process("counts", "tty", shell)
    agent.resize_terminal("counts", 50, 132, "tty")
    agent.write_stdin("counts", b"hello\n", "tty")
    echo, answer = agent.read_stdout("counts", "tty", timeout=30).splitlines()
    said = json.loads(answer)
    assert (echo, said["line"], said["rows"], said["columns"], said["own"]) == (b"hello", "hello\n", 50, 132, True)
    assert agent.wait_process("counts", "tty") == 0
    with refused(Code.FAILED_PRECONDITION):
        agent.resize_terminal("counts", 50, 132)


def a_pod_shares_its_pid_namespace(agent, root):
    """The first container brings the namespace; the others join it, and end by their cgroups."""

    def begin(name, *args, shared=True):
        agent.create_container(
            name, container_spec(name, root, process(["/probe", *args])), shared_pid_namespace=shared
        )
        agent.start_container(name)

    def pids():
        agent.exec_process("pause", "list", process(["/probe", "list", "/proc"]))
        names = json.loads(agent.read_stdout("pause", "list", timeout=30))["names"]
        return {name for name in names if name.isdecimal()}

    begin("pause", "sleep", "120", shared=False)
    begin("alone", "echo-env", "A", shared=False)
    assert json.loads(agent.read_stdout("alone", timeout=30))["pid"] == 1
    begin("joined", "echo-env", "A")
    assert json.loads(agent.read_stdout("joined", timeout=30))["pid"] > 1
    for name in ("alone", "joined"):
        agent.remove_container(name, 20)
    before = pids()
    for number, end in ((signal.SIGTERM, 128 + 15), (signal.SIGKILL, 128 + 9)):
        begin("app", "sleep", "120")
        agent.exec_process("app", "more", process(["/probe", "sleep", "120"]))
        assert len(pids() - before) == 3  # with the one that lists them
        agent.signal_process("app", number=number)
        assert agent.wait_process("app", timeout=30) == end
        assert agent.wait_process("app", "more", timeout=30) == 128 + 9
        with refused(Code.FAILED_PRECONDITION):
            agent.exec_process("app", "late", process(["/probe", "sleep", "120"]))
        agent.remove_container("app", 20)
    begin("app", "sleep", "120")
    agent.exec_process("app", "more", process(["/probe", "sleep", "120"]))
    agent.pause_container("app")
    agent.remove_container("app", 20)
    assert len(pids() - before) == 1
    begin("bad", "stop-others", "120")
    with refused(Code.INTERNAL):  # what enters is stopped, sooner or later
        for _ in range(50):
            begin("stopped", "exit", "0")
            agent.remove_container("stopped", 20)
    agent.remove_container("bad", 20)
    with contextlib.suppress(RpcError):  # where it was created, and not started
        agent.remove_container("stopped", 20)
    begin("last", "sleep", "120")
    agent.remove_container("pause", 20)
    assert agent.wait_process("last", timeout=30) == 128 + 9
    begin("next", "echo-env", "A")  # it brings a namespace in the place of the one that has ended
    assert json.loads(agent.read_stdout("next", timeout=30))["pid"] == 1
    for name in ("last", "next"):
        agent.remove_container(name, 20)


def namespaces_are_the_sandboxs(agent, root):
    links = ("/proc/self/ns/ipc", "/proc/self/ns/uts")
    here = [said(agent, "one", root, "stat", link)["target"] for link in links]
    assert here == [said(agent, "other", root, "stat", link)["target"] for link in links]
    assert said(agent, "one", root, "echo-env", "A")["hostname"] == "localhost"
    assert said(agent, "one", root, "echo-env", "A", hostname="box")["hostname"] == "box"
    setting = "/proc/sys/kernel/msgmni"
    tuned = said(agent, "tuned", root, "read", setting, sysctls={"kernel.msgmni": "77"})
    assert said(agent, "one", root, "read", setting)["sha256"] == tuned["sha256"] == sha256(b"77\n").hexdigest()


def a_mount_is_where_its_link_leads(agent, root):
    spec = container_spec("linked", root, process(["/probe", "mounts"]))
    spec.Mounts.add(destination="/var/run/made", type="tmpfs", source="linked")
    agent.create_container("linked", spec)
    agent.start_container("linked")
    mounts = json.loads(agent.read_stdout("linked", timeout=30))["mounts"]
    assert [mount["target"] for mount in mounts if mount["source"] == "linked"] == ["/run/none/made"]
    agent.remove_container("linked", 20)


def who_asks_for_no_capabilities_has_none(agent):
    asks, asks_not = (process(["/probe", "echo-env", "A"]) for _ in range(2))
    asks_not.ClearField("Capabilities")
    found = []
    for name, each in (("asks", asks), ("asks-not", asks_not)):
        agent.exec_process("counts", name, each)
        found.append(json.loads(agent.read_stdout("counts", name, timeout=30))["capabilities"])
    assert found == ["0 a80425fb a80425fb a80425fb 0", "0 0 0 0 0"]


def a_hook_runs_before_the_program(agent, root):
    hook = oci_pb2.Hook(Path="/probe", Args=["probe", "write", "/etc/hooked", "3", "seed"])
    assert said(agent, "hooked", root, "stat", "/etc/hooked", hooks=[hook])["size"] == 3


def said(agent, name, root, *args, hostname="", sysctls=None, hooks=()):
    """Return what the probe says in a container of its own."""
    spec = container_spec(name, root, process(["/probe", *args]), hostname=hostname)
    spec.Linux.Sysctl.update(sysctls or {})
    spec.Hooks.StartContainer.extend(hooks)
    agent.create_container(name, spec)
    agent.start_container(name)
    answer = json.loads(agent.read_stdout(name, timeout=30))
    agent.remove_container(name, 20)
    return answer


def network_is_set_up(agent):
    addresses = [types_pb2.IPAddress(address="10.0.2.15", mask="24")]
    wanted = types_pb2.Interface(name="pod0", hwAddr=HARDWARE, mtu=1400, IPAddresses=addresses)
    agent.update_interface(wanted)
    (found,) = [each for each in agent.list_interfaces() if each.hwAddr == HARDWARE]
    assert (found.name, found.mtu) == ("pod0", 1400)
    assert ("10.0.2.15", "24") in [(each.address, each.mask) for each in found.IPAddresses]
    routes = agent.update_routes([types_pb2.Route(gateway="10.0.2.2", device="pod0")])
    assert ("", "10.0.2.2", "pod0") in [(route.dest, route.gateway, route.device) for route in routes]
    assert {route.dest for route in agent.list_routes()} >= {"", "10.0.2.0/24"}
    gateway = types_pb2.IPAddress(address="10.0.2.2")
    agent.add_neighbours([types_pb2.ARPNeighbor(toIPAddress=gateway, device="pod0", lladdr=HARDWARE)])
    assert "pod0" in agent.stats_container("counts").network
    with refused(Code.NOT_FOUND):
        agent.update_interface(types_pb2.Interface(name="pod1", hwAddr="52:54:00:00:00:01"))


def limits_are_changed(agent):
    before = agent.stats_container("counts")
    assert (before.memory.limit, before.processes > 0, before.cpu_seconds > 0) == (64 * MIB, True, True)
    assert 0 < before.memory.usage < 64 * MIB
    agent.update_container(
        "counts",
        limits(memory=48 * MIB, processes=33, quota=20_000),
    )
    agent.update_container("counts", oci_pb2.LinuxResources(Pids=oci_pb2.LinuxPids(Limit=34)))
    after = agent.stats_container("counts")
    assert (after.memory.limit, after.process_limit) == (48 * MIB, 34)
    assert after.cpu_seconds >= before.cpu_seconds
    with refused(Code.INVALID_ARGUMENT):
        agent.update_container("counts", oci_pb2.LinuxResources(Devices=[oci_pb2.LinuxDeviceCgroup(Type="x")]))
    assert agent.stats_container("counts").memory.limit == 48 * MIB


def it_is_paused(agent):
    assert agent.read_some("counts", timeout=20)
    with refused(Code.FAILED_PRECONDITION):
        agent.resume_container("counts")
    agent.pause_container("counts")
    with refused(Code.DEADLINE_EXCEEDED):
        while agent.read_some("counts", timeout=1):  # what it had written before
            pass
    with refused(Code.FAILED_PRECONDITION):
        agent.pause_container("counts")
    with refused(Code.FAILED_PRECONDITION):
        agent.exec_process("counts", "e", process(["/program", "count"]))
    used = agent.stats_container("counts").cpu_seconds
    assert agent.stats_container("counts").cpu_seconds == used
    agent.resume_container("counts")
    assert agent.read_some("counts", timeout=20)
    agent.pause_container("counts")  # and is removed like this
