"""`invoke` with a kernel tree in miniature (tests/fake_kernel) in the place of the real one, and without boots.

All else is the real thing: its tasks, the store, make and the compiler, Go, the agent, the images, the output.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from invoke import Program

import tasks
from guestforge import commands, pipeline
from guestforge.files import atomic_file
from guestforge.kernel import step
from guestforge.recipe import bounds, load
from guestforge.recipe.models import DebianSource, Kernel
from guestforge.sources.linux import KernelTree, make_read_only
from guestforge.store import key_of

REPOSITORY = Path(__file__).resolve().parents[2]
FAKE = REPOSITORY / "tests" / "fake_kernel"
SOURCE = {"fake": 2}
DATE = 1_700_000_000
UNPACKS = {"CONFIG_BLK_DEV_INITRD": "y", "CONFIG_RD_GZIP": "y"}  # what the tree in miniature has no option for


def workspace(cache, arch):
    """Return where the tree is compiled."""
    return cache / "work" / "kernel" / f"{key_of('source', SOURCE)}-{arch}"


def source(store):
    """Return the tree, of the store."""

    def copy(out):
        shutil.copytree(FAKE, out / "tree")
        make_read_only(out / "tree")

    return KernelTree(store.get_or_build("source", SOURCE, copy), "6.12-fake", DATE)


def build_kernel(store, arch, _recipe, *, jobs, **_):
    """Take the place of the pipeline's kernel step: the same step, another tree and a fragment that it knows."""
    fragments = store.cache / "fragments"
    with atomic_file(fragments / "common" / "base.conf", "w") as file:  # another build may be reading it
        file.write("CONFIG_FUSE=y\nCONFIG_EXTRA=y\n")
    origin = DebianSource(kind="debian", package="linux-source-6.12", suite="trixie", version=None)
    small = Kernel(source=origin, base="allnoconfig", fragments=("base",))
    return step.build_kernel(store, arch, small, jobs=jobs, fragments=fragments, source=lambda: source(store))


def main():
    pipeline.build_kernel = build_kernel
    pipeline.read_dotconfig = lambda _: UNPACKS
    commands._prove = lambda *_, **__: None
    if recipes := os.environ.get("MINIATURE_RECIPES"):
        pipeline.load_guest_for = partial(bounds.load_guest_for, recipes=Path(recipes))
        for name in ("load_kernel", "load_rootfs"):
            setattr(pipeline, name, partial(getattr(load, name), recipes=Path(recipes)))
    Program(namespace=tasks.namespace, binary="invoke").run(["invoke", *sys.argv[1:]])


if __name__ == "__main__":
    main()
