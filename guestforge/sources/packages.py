"""A Debian package's files, fetched and unpacked once into the store."""

from pathlib import Path

from guestforge.core.need import Need
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step
from guestforge.sources.aptroot import Resolved
from guestforge.sources.download import debian_step
from guestforge.sources.kernel_tree import TREE
from guestforge.sources.resolution import Archive, Wanted

STEP = "package"
NEEDS = (Need("apt", tool="apt-get"), Need("dpkg", tool="dpkg-deb"))
UNPACKED = 1  # raise it when the same package would be unpacked differently


def package_step(archive: Archive, package: str, suite: str, architecture: str, *, version: str | None = None) -> Step:
    """Return the step that makes an entry with a package's files below `tree/`; `architecture` is Debian's name.

    No script of the package is run. The step raises UserError for an unknown package or a host without Debian's keys,
    BuildError for the network.
    """
    wanted = Wanted(package, suite, architecture, version)
    return debian_step(STEP, archive, wanted, _extract, needs=NEEDS, inputs={"unpacked": UNPACKED})


def _extract(deb: Path, out: Path, _resolved: Resolved, runtime: Runtime) -> None:
    # dpkg-deb unpacks with tar, which refuses names that lead out of the directory
    runtime.run(["dpkg-deb", "--extract", deb, out / TREE])
