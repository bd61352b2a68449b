"""A Debian package's files, fetched and unpacked once into the store."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from guestforge.progress import bar
from guestforge.run import run
from guestforge.sources.aptroot import Resolved
from guestforge.sources.resolution import Wanted, apt_root, resolve
from guestforge.store import Entry, Store

STEP = "package"
TREE = "tree"  # the folder of an entry that holds what was unpacked
LAYOUT = 1  # raise it when the same package would be unpacked differently


def fetch_package(
    store: Store,
    package: str,
    suite: str,
    architecture: str,
    *,
    version: str | None = None,
    mirror: str | None = None,
    refresh: bool = False,
) -> Entry:
    """Return the entry with a package's files below `tree/`; `architecture` is Debian's name. No script is run.

    Raises UserError for an unknown package or a host without Debian's keys, BuildError for the network.
    """
    wanted = Wanted(package, suite, architecture, version)
    resolved = resolve(store, wanted, mirror=mirror, refresh=refresh).resolved

    def build(out: Path) -> None:
        with downloaded(store, wanted, resolved, mirror) as deb:
            # dpkg-deb unpacks with tar, which refuses names that lead out of the directory
            run(["dpkg-deb", "--extract", deb, out / TREE])

    return store.get_or_build(STEP, {**asdict(resolved), "layout": LAYOUT}, build)


@contextmanager
def downloaded(store: Store, wanted: Wanted, resolved: Resolved, mirror: str | None) -> Iterator[Path]:
    """Yield a package's file, verified; it goes when the block is left."""
    with apt_root(store, wanted, mirror) as root, tempfile.TemporaryDirectory(dir=root.directory) as place:
        with bar(f"fetching {resolved.package} {resolved.version}", resolved.size, "B") as shown:
            deb = root.download(resolved, Path(place), shown.update)
        yield deb
