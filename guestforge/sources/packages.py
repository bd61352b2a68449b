"""A Debian package's files, fetched and unpacked once into the store."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from guestforge.need import Need
from guestforge.run import run
from guestforge.sources.aptroot import Resolved
from guestforge.sources.download import downloaded
from guestforge.sources.kernel_tree import TREE
from guestforge.sources.resolution import Archive, Wanted, resolve
from guestforge.step import Step, Used

STEP = "package"
NEEDS = (Need("apt", tool="apt-get"), Need("dpkg", tool="dpkg-deb"))
UNPACKED = 1  # raise it when the same package would be unpacked differently; how it is fetched changes nothing


def package_step(archive: Archive, package: str, suite: str, architecture: str, *, version: str | None = None) -> Step:
    """Return the step that makes an entry with a package's files below `tree/`; `architecture` is Debian's name.

    No script of the package is run. The step raises UserError for an unknown package or a host without Debian's keys,
    BuildError for the network.
    """
    wanted = Wanted(package, suite, architecture, version)

    @cache
    def resolved() -> Resolved:
        return resolve(archive, wanted).resolved

    def inputs() -> Mapping[str, Any]:
        return {**asdict(resolved()), "unpacked": UNPACKED}

    def make(out: Path, _used: Used) -> None:
        with downloaded(archive, wanted, resolved()) as deb:
            # dpkg-deb unpacks with tar, which refuses names that lead out of the directory
            run(["dpkg-deb", "--extract", deb, out / TREE])

    return Step(STEP, inputs, make, code=(), variant=package, needs=NEEDS)
