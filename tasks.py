"""The tasks that a user types. Each reads its options and calls the library; docs/tasks.md describes them.

The library is imported inside the tasks: a task must not pay for what it does not use.
"""

from invoke import Collection

from guestforge.cli import Chosen, job
from guestforge.words import judge

STEP = ("project", "arch", "guest", "jobs", "mirror", "refresh", "agent", "output")
MADE = (*STEP, "dry-run", "fail-fast", "json")
BOOT = ("accel", "timeout", "artifact", "verbose", "virtio-fs-server")


@job(*MADE, *BOOT)
def build(chosen: Chosen) -> int:
    """Build kernel, agent, root file system, initrd and disk image, and prove them by booting."""
    from guestforge import commands

    return commands.build(chosen)


@job(*MADE)
def kernel(chosen: Chosen) -> int:
    """Build the kernel alone."""
    from guestforge import commands

    return commands.kernel(chosen)


@job(*MADE)
def agent(chosen: Chosen) -> int:
    """Build the agent alone."""
    from guestforge import commands

    return commands.agent(chosen)


@job(*MADE)
def rootfs(chosen: Chosen) -> int:
    """Show what the root file system holds, having built what goes into it."""
    from guestforge import commands

    return commands.rootfs(chosen)


@job(*MADE)
def initrd(chosen: Chosen) -> int:
    """Build the initrd, and what it needs."""
    from guestforge import commands

    return commands.initrd(chosen)


@job(*MADE)
def image(chosen: Chosen) -> int:
    """Build the disk image, and what it needs."""
    from guestforge import commands

    return commands.image(chosen)


@job(*MADE, *BOOT)
def check(chosen: Chosen) -> int:
    """Boot what was built and check it, whether it has been checked before or not."""
    from guestforge import commands

    return commands.check(chosen)


@job(*MADE, "accel", "timeout", "many", "virtio-fs-server")
def conform(chosen: Chosen) -> int:
    """Try in a guest what file systems promise, on each storage, and print what is not kept everywhere."""
    from guestforge import commands

    return commands.conform(chosen)


@job(*STEP, "accel", "artifact")
def run(chosen: Chosen) -> None:
    """Start a guest with its console on the terminal; Ctrl-A X leaves it."""
    from guestforge import interactive

    interactive.run(chosen)


@job("step", *STEP, "accel", "timeout", "artifact", "virtio-fs-server")
def why(chosen: Chosen) -> int:
    """Say what in a step's key has changed since its newest entry in the store."""
    from guestforge import commands

    return commands.why(chosen)


@job("fast", "arch")
def test(chosen: Chosen) -> int:
    """Lint, check types, and run all tests, with real boots unless --fast."""
    from guestforge.host import selftest

    return selftest.run_tests(chosen)


@job("project", "arch")
def doctor(chosen: Chosen) -> int:
    """Say what of this machine a build and its checks can use, and what is missing."""
    from guestforge.host import doctor

    return doctor.run_doctor(chosen)


@job("project", "store")
def clean(chosen: Chosen) -> None:
    """Remove what was built from output/, and with --store the store too."""
    from guestforge import commands

    commands.clean(chosen)


@job("arch")
def bench_build(chosen: Chosen) -> None:
    """Measure builds against plain make, and write docs/figures.md."""
    from guestforge.bench import build

    build.run(chosen)


@job("arch")
def bench_boot(chosen: Chosen) -> None:
    """Measure boots, sizes and memory, and write docs/figures.md."""
    from guestforge.bench import boot

    boot.run(chosen)


@job("arch")
def bench_storage(chosen: Chosen) -> None:
    """Measure how quickly guests work on their storages, and write docs/figures.md."""
    from guestforge.bench import storage

    storage.run(chosen)


bench = Collection("bench")
bench.add_task(bench_build, "build")
bench.add_task(bench_boot, "boot")
bench.add_task(bench_storage, "storage")

namespace = Collection(
    build, kernel, agent, rootfs, initrd, image, check, conform, run, why, test, doctor, clean, bench
)
judge(namespace)
