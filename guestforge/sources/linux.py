"""A kernel tree from Debian's `linux-source-*`."""

from pathlib import Path

from guestforge.arch import host
from guestforge.core.need import Need
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step
from guestforge.project.models import DebianSource
from guestforge.sources import packages
from guestforge.sources.aptroot import Resolved
from guestforge.sources.download import debian_step
from guestforge.sources.kernel_tree import FACTS, TREE, write_facts
from guestforge.sources.resolution import Archive, Wanted
from guestforge.sources.unpack import make_read_only, unpack

STEP = "source"
NEEDS = (*packages.NEEDS, Need("tar", tool="tar"), Need("xz-utils", tool="xz"))


def source_step(archive: Archive, source: DebianSource) -> Step:
    """Return the step that makes an entry with the kernel tree of a recipe's source, see `kernel_tree`.

    It raises UserError for an unknown package or a host without Debian's keys, BuildError for the network or a package
    that holds no kernel tree.
    """
    code = ("guestforge.sources.unpack", "guestforge.sources.kernel_tree")
    return debian_step(STEP, archive, wanted_of(source), _unpack, code=code, outputs=(FACTS,), needs=NEEDS)


def wanted_of(source: DebianSource) -> Wanted:
    """Return the package that a recipe's source is."""
    # it is for all architectures; the host's lists have it as well as any
    return Wanted(source.package, source.suite, host().debian, source.version)


def _unpack(deb: Path, out: Path, resolved: Resolved, runtime: Runtime) -> None:
    date = unpack(deb, out / TREE, runtime)
    write_facts(out, resolved.version, date)
    make_read_only(out / TREE)
