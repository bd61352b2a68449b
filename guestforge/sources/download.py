"""A package's file, fetched by apt and verified."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guestforge.progress import bar
from guestforge.sources.aptroot import Resolved
from guestforge.sources.resolution import Archive, Wanted, apt_root


@contextmanager
def downloaded(archive: Archive, wanted: Wanted, resolved: Resolved) -> Iterator[Path]:
    """Yield a package's file, verified; it goes when the block is left."""
    with archive.store.temporary("download") as place, apt_root(archive, wanted) as root:
        with bar(f"fetching {resolved.package} {resolved.version}", resolved.size, "B") as shown:
            deb = root.download(resolved, place, shown.update)
        yield deb
