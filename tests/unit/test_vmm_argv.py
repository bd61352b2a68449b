"""QEMU's arguments and the kernel's command line, against golden files for every architecture."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from guestforge.arch import ARCHES, lookup
from guestforge.core.errors import UserError
from guestforge.vmm.argv import as_lines, differs_under_tcg, disk_address, qemu_argv, quoted
from guestforge.vmm.plan import Disk, MachinePlan, Network, Root, Share, Sockets, Vsock, kernel_cmdline

GOLDEN = Path(__file__).parents[1] / "golden" / "vmm"
SOCKETS = Sockets(Path("/run/gf-1"))


def plan(arch="x86_64", accelerator="tcg", **changes):
    given = MachinePlan(
        arch=lookup(arch), accelerator=accelerator, kernel=Path("/k/kernel"), console_log=Path("/log/console.log")
    )
    return replace(given, **changes)


DEVICES = {
    "shares": (Share("kataShared", Path("/shared")), Share("nine", Path("/ninth"), "virtio-9p")),
    "vsock": Vsock("builtin", 3),
}
ARTIFACTS = {
    "initrd": {"initrd": Path("/k/initrd.img"), "disks": (Disk(Path("/d/data"), serial="data"),)},
    "image": {
        "root": Root(),
        "disks": (Disk(Path("/k/rootfs.img"), read_only=True, serial="root"), Disk(Path("/d/data"), serial="data")),
    },
}


def value_of(argv, option, having=""):
    return next(b for a, b in itertools.pairwise(argv) if a == option and having in b)


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
@pytest.mark.parametrize("artifact", list(ARTIFACTS))
@pytest.mark.parametrize("arch", list(ARCHES))
def test_arguments_match_the_golden_file(arch, artifact, accelerator):
    text = as_lines(qemu_argv(plan(arch, accelerator, **DEVICES, **ARTIFACTS[artifact]), SOCKETS))
    golden = GOLDEN / f"{arch}-{artifact}-{accelerator}.txt"
    if os.environ.get("GUESTFORGE_ACCEPT_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "GUESTFORGE_ACCEPT_GOLDEN=1 pytest ... accepts the new text"


@pytest.mark.parametrize("arch", list(ARCHES))
def test_emulated_pages_are_cleared_before_another_process_fills_them(arch):
    share, ninth = DEVICES["shares"]
    lines = [
        kernel_cmdline(plan(arch, accelerator, shares=shares)).split()
        for accelerator, shares in (("tcg", (ninth, share)), ("tcg", (ninth,)), ("kvm", (share,)))
    ]
    assert ["init_on_alloc=1" in words for words in lines] == [True, False, False]


@pytest.mark.parametrize("arch", list(ARCHES))
def test_what_differs_under_tcg_is_told(arch):
    emulated = plan(arch, "tcg", **DEVICES)
    told = differs_under_tcg(emulated)
    assert "-accel tcg" in told
    assert "-append ... init_on_alloc=1" in told
    assert ("-append ... nolapic_timer" in told) == (ARCHES[arch].kernel_args_tcg != ())
    assert any(line.startswith("-machine ") for line in told) == (ARCHES[arch].machine_options_tcg != "")
    assert differs_under_tcg(plan(arch, "kvm", **DEVICES)) == ()
    of_kvm = as_lines(qemu_argv(plan(arch, "kvm", **DEVICES), SOCKETS)).splitlines()
    assert [line for line in told if line in of_kvm] == []


def test_firmware_that_only_boots_kernels_is_for_them():
    for arch in ARCHES.values():
        assert (
            value_of(qemu_argv(plan(arch.name, kernel=None), SOCKETS), "-machine")
            == f"{arch.machine},memory-backend=ram"
        )


def test_timer_that_would_be_missed_by_several_processors_stays():
    assert "nolapic_timer" in kernel_cmdline(plan())
    assert "nolapic_timer" not in kernel_cmdline(plan(cpus=2))
    assert "nolapic_timer" not in kernel_cmdline(plan(accelerator="kvm"))


def test_another_program_may_stand_for_the_architectures():
    assert qemu_argv(plan(), SOCKETS, ("/q", "-L", "/f"))[:4] == ["/q", "-L", "/f", "-nodefaults"]


def test_qemu_that_becomes_another_user_may_make_the_calls_for_it():
    become = ("-runas", "61200:61200")
    assert value_of(qemu_argv(plan(), SOCKETS), "-sandbox") == "on,obsolete=deny,elevateprivileges=deny,spawn=deny"
    argv = qemu_argv(plan(), SOCKETS, become=become)
    assert value_of(argv, "-sandbox") == "on,obsolete=deny,spawn=deny"
    assert become in itertools.pairwise(argv)


def test_comma_in_a_path_is_written_twice():
    argv = qemu_argv(plan(disks=(Disk(Path("/d/a,b")),)), Sockets(Path("/run/x,y")))
    assert "filename=/d/a,,b," in value_of(argv, "-blockdev", "driver=file")
    assert "path=/run/x,,y/qmp," in value_of(argv, "-chardev", "id=qmp")
    assert quoted(Path("/,,")) == "/,,,,"


def test_kernel_vsock_device_is_on_the_virtio_bus():
    for arch in ARCHES:
        argv = qemu_argv(plan(arch, vsock=Vsock("kernel", 4711)), SOCKETS)
        assert f"vhost-vsock-{ARCHES[arch].virtio_bus},guest-cid=4711" in argv


def test_network_is_an_interface_without_a_rom_known_by_its_address():
    for arch in ARCHES:
        argv = qemu_argv(plan(arch, network=Network("52:54:00:00:00:07")), SOCKETS)
        assert ("-netdev", "user,id=network") in itertools.pairwise(argv)
        device = value_of(argv, "-device", "netdev=network")
        assert device.startswith(f"virtio-net-{ARCHES[arch].virtio_bus},netdev=network,mac=52:54:00:00:00:07")
        assert device.endswith(",romfile=") == (ARCHES[arch].virtio_bus == "pci")
        assert "-netdev" not in qemu_argv(plan(arch), SOCKETS)


def test_console_on_the_terminal_has_qemus_keys_and_passes_through_us():
    argv = qemu_argv(plan(console="terminal"), SOCKETS)
    console = value_of(argv, "-chardev", "id=console")
    assert console == f"pipe,id=console,path={SOCKETS.console},mux=on"
    assert "/log/console.log" not in " ".join(argv)  # QEMU would write it without a bound


def test_extra_arguments_come_last():
    assert qemu_argv(plan(extra=("-S",)), SOCKETS)[-1] == "-S"


def test_icount_is_an_argument_of_tcg():
    assert value_of(qemu_argv(plan(icount=True), SOCKETS), "-icount") == "shift=0"
    with pytest.raises(UserError, match="TCG"):
        plan(accelerator="kvm", icount=True)


def test_disk_address_is_the_slot_in_the_arguments():
    for arch in ARCHES.values():
        disks = (Disk(Path("/d/a")), Disk(Path("/d/b")))
        argv = qemu_argv(plan(arch.name, disks=disks), SOCKETS)
        device = value_of(argv, "-device", "drive=disk1")
        assert disk_address(arch, 1) == {"pci": "11", "ccw": "0.0.0011"}[arch.virtio_bus]
        assert {"pci": "addr=0x11", "ccw": "devno=fe.0.0011"}[arch.virtio_bus] in device


def test_command_line_has_console_root_and_own_arguments_last():
    line = kernel_cmdline(plan(root=Root(), kernel_args=("agent.log=debug",)))
    assert line.startswith("console=ttyS0 ")
    assert " root=/dev/vda1 rootfstype=ext4 rootflags=data=ordered,errors=remount-ro ro " in line
    assert line.endswith(" agent.log=debug")
    assert "root=" not in kernel_cmdline(plan(initrd=Path("/i")))
    assert kernel_cmdline(plan(root=Root(read_only=False, flags=""))).endswith("rootfstype=ext4 rw")


@pytest.mark.parametrize("arch", list(ARCHES))
def test_command_line_may_fill_what_the_kernel_keeps_and_no_more(arch):
    room = ARCHES[arch].cmdline_max - 1 - len(kernel_cmdline(plan(arch))) - 1
    assert len(kernel_cmdline(plan(arch, kernel_args=("x" * room,)))) == ARCHES[arch].cmdline_max - 1
    with pytest.raises(UserError, match=rf"has {ARCHES[arch].cmdline_max} bytes.*keeps {ARCHES[arch].cmdline_max - 1}"):
        plan(arch, kernel_args=("x" * (room + 1),))


def test_command_line_counts_bytes_not_characters():
    with pytest.raises(UserError, match="bytes"):
        plan(kernel_args=("ä" * 1000,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "s390x", "cpus": 9}, "at most 8"),
        ({"cpus": 0}, "cpus = 0"),
        ({"memory_mib": 8}, "memory = 8 MiB"),
        ({"shares": (Share("a", Path("/a")), Share("a", Path("/b")))}, "same tag"),
        ({"shares": (Share("a,b", Path("/a")),)}, "tag 'a,b'"),
        ({"shares": (Share("x" * 37, Path("/a")),)}, "1 to 36"),
        ({"disks": (Disk(Path("/a"), serial="x" * 21),)}, "1 to 20"),
        ({"disks": (Disk(Path("/a")),) * 13}, "13 disks"),
        ({"vsock": Vsock("kernel", 2)}, "CID 2"),
        ({"kernel_args": ("a\nb",)}, "line break"),
    ],
)
def test_value_that_cannot_work_is_the_users_error(changes, words):
    with pytest.raises(UserError, match=words):
        plan(**changes)


def test_kvm_takes_more_processors_than_tcg():
    assert plan("s390x", "kvm", cpus=9).cpus == 9
