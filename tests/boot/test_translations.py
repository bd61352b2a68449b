"""Programs that come and go on a storage run as they were written: TCG keeps no translation of the one before."""

import contextlib
from dataclasses import replace

import pytest

from guestforge.arch import X86_64
from guestforge.check import fixtures, live
from guestforge.check.guest import Machine
from guestforge.check.options import CheckOptions
from guestforge.check.storages import fill_shares, prepare_with
from guestforge.conform.run import PLACE, PROGRAM
from guestforge.rootfs.tree import Directory, File, Tree
from guestforge.vmm.emulator import DIRECT_READS
from guestforge.vmm.virtiofsd import find_virtiofsd

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

RUNS = 120  # where translations are kept, one of the first three is wrong
LIMIT = 120  # seconds, of each storage


@pytest.fixture
def guest(pipeline, built, tmp_path):
    """Start an architecture's guest, its share served by a server; the guest and its storages by name."""

    @contextlib.contextmanager
    def start(arch, server, kernel_args=()):
        program = pipeline(arch.name).conform
        tree = Tree([*map(Directory, fixtures.MOUNT_POINTS), File(PROGRAM, program, 0o755), Directory(PLACE)])
        storages = prepare_with(arch, lambda _: (tree, ()), tmp_path, disk_mib=64)
        fill_shares(storages)
        options = CheckOptions(accel="tcg", virtio_fs_server=server)
        artifacts = replace(built(arch.name), kernel_args=kernel_args)
        with live.start(Machine(artifacts, "initrd", options, storages, tmp_path / "console.log")) as running:
            assert running.wait_serving(60)
            running.create_sandbox()
            yield running, {storage.check: storage for storage in storages}

    return start


def execute(guest, storage):
    """Run the programs; what they said that was wrong."""
    ran = guest.run_program(storage, [PROGRAM, "execute", PLACE, str(RUNS)], LIMIT, 4096)
    assert (ran.status == 0) is not bool(ran.stderr)
    return ran.stderr.decode()


def test_each_program_runs_as_written_on_every_storage(guest, arch_row):
    with guest(arch_row, "builtin") as (running, storages):
        assert running.qemu.untrusted == (DIRECT_READS,), running.qemu.reason
        assert {name: execute(running, storage) for name, storage in storages.items()} == dict.fromkeys(storages, "")


@pytest.mark.skipif(find_virtiofsd() is None, reason="no virtiofsd on this host")
def test_each_program_runs_as_written_on_a_share_of_virtiofsd(guest):
    with guest(X86_64, "virtiofsd") as (running, storages):
        assert execute(running, storages["virtio-fs"]) == ""


def test_without_cleared_pages_another_program_runs(guest):
    """What the tests above look for is there to be found: the last of a kernel's arguments counts."""
    with guest(X86_64, "builtin", ("init_on_alloc=0",)) as (running, storages):
        assert "instead of" in execute(running, storages["virtio-fs"])
