"""A kernel tree from Debian's `linux-source-*`."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from guestforge.arch import host
from guestforge.need import Need
from guestforge.recipe.models import DebianSource
from guestforge.sources import packages
from guestforge.sources.aptroot import Resolved
from guestforge.sources.download import downloaded
from guestforge.sources.kernel_tree import FACTS, TREE, write_facts
from guestforge.sources.resolution import Archive, Wanted, resolve
from guestforge.sources.unpack import make_read_only, unpack
from guestforge.step import Step, Used

STEP = "source"
NEEDS = (*packages.NEEDS, Need("tar", tool="tar"), Need("xz-utils", tool="xz"))


def source_step(archive: Archive, source: DebianSource) -> Step:
    """Return the step that makes an entry with the kernel tree of a recipe's source, see `kernel_tree`.

    It raises UserError for an unknown package or a host without Debian's keys, BuildError for the network or a package
    that holds no kernel tree.
    """
    # the package is for all architectures; the host's lists have it as well as any
    wanted = Wanted(source.package, source.suite, host().debian, source.version)

    @cache
    def resolved() -> Resolved:
        return resolve(archive, wanted).resolved

    def inputs() -> Mapping[str, Any]:
        return asdict(resolved())

    def make(out: Path, _used: Used) -> None:
        with downloaded(archive, wanted, resolved()) as deb:
            date = unpack(deb, out / TREE)
        write_facts(out, resolved().version, date)
        make_read_only(out / TREE)

    # how a package is fetched has no part in what is in it: apt compares it with the digest that is an input
    code = ("guestforge.sources.unpack", "guestforge.sources.kernel_tree")
    return Step(STEP, inputs, make, code, outputs=(FACTS,), variant=source.package, needs=NEEDS)
