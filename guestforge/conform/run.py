"""Runs the conform program in a container on each storage of one machine."""

from pathlib import Path
from typing import Final

from guestforge.check import fixtures
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.engine import CheckFailure
from guestforge.check.guest import Guest, Machine, Starter
from guestforge.check.report import CONSOLE
from guestforge.check.storages import Storage, fill_shares, prepare_with
from guestforge.conform.results import OUTPUT_LIMIT, Results, parse_results
from guestforge.conform.table import Conformance
from guestforge.core import progress
from guestforge.core.runtime import Runtime
from guestforge.core.scratch import scratch_directory
from guestforge.project.options import CheckOptions
from guestforge.rootfs.tree import Directory, File, Tree

PROGRAM: Final = "/conform"
PLACE: Final = "/out"

DISK_MIB: Final = 512  # room for 100,000 files and the sparse ones
TIMEOUT: Final = 1_800.0  # seconds for all cases on one storage, without --timeout
READY_TIMEOUT: Final = 60.0


def conform(
    start: Starter, artifacts: GuestArtifacts, program: Path, options: CheckOptions, runtime: Runtime, *, many: int
) -> Conformance:
    """Boot the initrd and try every promise on each storage; `many` is the number of files of the large directory.

    Raises CheckFailure for a guest that does not come so far.
    """
    with scratch_directory("guestforge-conform-") as scratch:
        tree = Tree([*map(Directory, fixtures.MOUNT_POINTS), File(PROGRAM, program, 0o755), Directory(PLACE)])
        storages = prepare_with(artifacts.arch, lambda _: (tree, ()), scratch, runtime, disk_mib=DISK_MIB)
        fill_shares(storages)
        machine = Machine(artifacts, "initrd", options, storages, scratch / CONSOLE, runtime)
        with start(machine) as guest:
            return _on_guest(guest, machine, many)


def _on_guest(guest: Guest, machine: Machine, many: int) -> Conformance:
    if not guest.wait_serving(READY_TIMEOUT):
        raise CheckFailure("the agent did not say SERVING", guest.console_tail(20))
    guest.create_sandbox()
    results = {storage.check: _on_storage(guest, machine, storage, many) for storage in machine.storages}
    guest.power_off(READY_TIMEOUT)
    return Conformance(
        arch=machine.artifacts.arch.name,
        guest=machine.artifacts.guest,
        accelerator=guest.accelerator.name,
        servers={name: guest.virtio_fs_server if name == "virtio-fs" else "qemu" for name in results},
        results=results,
    )


def _on_storage(guest: Guest, machine: Machine, storage: Storage, many: int) -> Results:
    timeout = machine.options.timeout or TIMEOUT
    with progress.step(f"{machine.artifacts.arch.name}: conform on {storage.check}"):
        ran = guest.run_program(storage, [PROGRAM, "run", PLACE, str(many)], timeout, OUTPUT_LIMIT)
    if ran.status != 0:
        words = ran.stderr[-2048:].decode("utf-8", "replace")
        raise CheckFailure(f"conform ended with exit code {ran.status} on {storage.check}", words)
    return parse_results(ran.stdout)
