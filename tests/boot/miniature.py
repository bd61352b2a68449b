"""`invoke` with a kernel tree in miniature (tests/fake_kernel) in the place of the real one, and without boots.

All else is the real thing: its tasks, the store, make and the compiler, Go, the agent, the images, the output.
"""

import shutil
import sys
from functools import cache
from pathlib import Path

from invoke import Program

import tasks
from guestforge import targets
from guestforge.cli import commands
from guestforge.core.files import atomic_file
from guestforge.core.graph import Evaluation
from guestforge.core.step import Step
from guestforge.core.store import Store
from guestforge.image import initrd_step
from guestforge.kernel.step import kernel_step
from guestforge.pipeline import Pipeline
from guestforge.project.models import DebianSource, Kernel
from guestforge.sources.kernel_tree import write_facts
from guestforge.sources.unpack import make_read_only

REPOSITORY = Path(__file__).resolve().parents[2]
FAKE = REPOSITORY / "tests" / "fake_kernel"
SOURCE = {"fake": 2}
DATE = 1_700_000_000
UNPACKS = {"CONFIG_BLK_DEV_INITRD": "y", "CONFIG_RD_GZIP": "y"}  # what the tree in miniature has no option for


def workspace(cache, arch):
    """Return where the tree is compiled."""
    entry = Evaluation(Store(cache)).entry(source())
    return cache / "work" / "kernel" / f"{entry.key}-{arch}"


@cache
def source(*_):
    """Take the place of the step that fetches the tree."""

    def make(out, _used, _runtime):
        shutil.copytree(FAKE, out / "tree")
        make_read_only(out / "tree")
        write_facts(out, "6.12-fake", DATE)

    return Step("source", lambda _: SOURCE, make, code=())


def kernel(store, arch, _recipe, tree, *, jobs, **_):
    """Return the pipeline's own kernel step, with fragments that the tree knows."""
    known = store.cache / "fragments"
    with atomic_file(known / "common" / "base.conf", "w") as file:  # another build may be reading it
        file.write("CONFIG_FUSE=y\nCONFIG_EXTRA=y\n")
    origin = DebianSource(kind="debian", package="linux-source-6.12", suite="trixie", version=None)
    small = Kernel(source=origin, base="allnoconfig", fragments=("base",))
    return kernel_step(store, arch, small, tree, jobs=jobs, fragments=[known])


def no_proof(pipeline, booted, _options):
    """Take the place of the step that boots an artifact."""
    return Step("check", lambda _: {"of": pipeline.arch.name}, lambda *_: None, (), (), pipeline.arch.name, booted)


def main():
    targets.source_step = source
    targets.kernel_step = kernel
    initrd_step.read_dotconfig = lambda _: UNPACKS
    commands.ARTIFACTS = ("initrd",)
    Pipeline.check_step = no_proof
    Pipeline.show_proof = lambda *_: None
    Program(namespace=tasks.namespace, binary="invoke").run(["invoke", *sys.argv[1:]])


if __name__ == "__main__":
    main()
