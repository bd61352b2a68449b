"""Programs that come and go on a storage run as they were written: TCG keeps no translation of the one before."""

import pytest

from guestforge.arch import X86_64
from guestforge.conform.run import PLACE, PROGRAM
from guestforge.vmm.emulator import DIRECT_READS
from guestforge.vmm.virtiofsd import find_virtiofsd

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

RUNS = 120  # where translations are kept, one of the first three is wrong
LIMIT = 120  # seconds, of each storage


def execute(guest, storage):
    """Run the programs; what they said that was wrong."""
    ran = guest.run_program(storage, [PROGRAM, "execute", PLACE, str(RUNS)], LIMIT, 4096)
    assert (ran.status == 0) is not bool(ran.stderr)
    return ran.stderr.decode()


def test_each_program_runs_as_written_on_every_storage(started, arch_row):
    with started(arch_row, "builtin") as (running, storages):
        assert running.qemu.untrusted == (DIRECT_READS,), running.qemu.reason
        assert {name: execute(running, storage) for name, storage in storages.items()} == dict.fromkeys(storages, "")


@pytest.mark.skipif(find_virtiofsd() is None, reason="no virtiofsd on this host")
def test_each_program_runs_as_written_on_a_share_of_virtiofsd(started):
    with started(X86_64, "virtiofsd") as (running, storages):
        assert execute(running, storages["virtio-fs"]) == ""


def test_without_cleared_pages_another_program_runs(started):
    """What the tests above look for is there to be found: the last of a kernel's arguments counts."""
    with started(X86_64, "builtin", ("init_on_alloc=0",)) as (running, storages):
        assert "instead of" in execute(running, storages["virtio-fs"])
