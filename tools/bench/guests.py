"""Guests that are measured: built before a clock runs, and running with storages to work on."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from guestforge.arch import Arch
from guestforge.bootable import guest_needs, make_guests
from guestforge.check import live
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.engine import CheckFailure
from guestforge.check.guest import Machine
from guestforge.check.report import CONSOLE
from guestforge.check.storages import Storage, fill_shares, prepare_with
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.runtime import HOST
from guestforge.core.scratch import scratch_directory
from guestforge.core.store import Store
from guestforge.host.packages import ensure
from guestforge.pipeline import Pipeline
from guestforge.project.options import ARTIFACTS, Artifact, BuildOptions, CheckOptions
from guestforge.rootfs.tree import Tree

READY_LIMIT: Final = 120.0  # seconds


def built(arches: Sequence[Arch], booted: Sequence[Artifact] = ARTIFACTS) -> list[Pipeline]:
    """Return the default guest of each architecture, with all that is booted of it in the store."""
    evaluation, jobs = Evaluation(Store()), Jobserver(BuildOptions().jobs)
    pipelines = [Pipeline(arch, BuildOptions(), evaluation, jobs) for arch in arches]
    ensure(need for pipeline in pipelines for need in guest_needs(pipeline))
    make_guests(*pipelines, booted=booted)
    return pipelines


@contextlib.contextmanager
def running(
    guest: GuestArtifacts, tree: Tree, options: CheckOptions, disk_mib: int
) -> Iterator[tuple[live.LiveGuest, tuple[Storage, ...]]]:
    """Boot a guest's initrd; yield it with its sandbox, and its storages, each of which holds a tree.

    Raises CheckFailure for a guest that does not come so far.
    """
    with scratch_directory("guestforge-bench-") as scratch:
        storages = prepare_with(guest.arch, lambda _: (tree, ()), scratch, HOST, disk_mib=disk_mib)
        fill_shares(storages)
        with live.start(Machine(guest, "initrd", options, storages, scratch / CONSOLE)) as started:
            if not started.wait_serving(READY_LIMIT):
                raise CheckFailure("the agent did not say SERVING", started.console_tail(20))
            started.create_sandbox()
            yield started, storages
