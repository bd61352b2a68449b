"""Which version of a package a build uses: asked once, recorded in the cache, used until someone says `refresh`.

So a second build needs no network, and a kernel does not change under a user's hands; a `version` in the recipe says
it for everybody. The record knows no mirror: all mirrors serve the same signed archive.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from guestforge.core.files import atomic_file, disk_errors
from guestforge.core.progress import say, step
from guestforge.core.runtime import Runtime
from guestforge.core.store import Store
from guestforge.sources.aptplace import apt_place
from guestforge.sources.aptroot import AptRoot, Resolved
from guestforge.sources.hostapt import debian_mirror


@dataclass(frozen=True, slots=True)
class Archive:
    """Debian's archive, as a build reads it: recorded in `store`, from `mirror` instead of the host's where given.

    `refresh`: the mirror is asked for the newest version, though one is recorded.
    """

    store: Store
    mirror: str | None = None
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A package that a recipe asks for; `architecture` is Debian's name, `version` None for the suite's newest."""

    package: str
    suite: str
    architecture: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """A package's version, and when it was asked for (ISO 8601, UTC)."""

    resolved: Resolved
    date: str


def resolve(archive: Archive, wanted: Wanted, runtime: Runtime) -> Resolution:
    """Return the recorded version of a package; ask the mirror where there is none, or on `refresh`.

    Raises UserError for an unknown package or version or a host without Debian's keys, BuildError for the network.
    """
    cache = archive.store.cache
    path = record_path(cache, wanted)
    known = None if archive.refresh else read_record(path, wanted)
    if known is None:
        with step(f"asking for the version of {wanted.package} in {wanted.suite}"):
            known = _ask(archive, wanted, runtime)
        with disk_errors(cache), atomic_file(path, "w") as file:
            json.dump(asdict(known), file, indent=1)
    say(f"{wanted.package} {known.resolved.version} of {wanted.suite}, as of {known.date[:10]}")
    return known


def record_path(cache: Path, wanted: Wanted) -> Path:
    """Return where the version of a package is recorded."""
    pinned = [wanted.version.replace(":", "%3a")] if wanted.version else []
    return cache / "resolved" / f"{'_'.join([wanted.suite, wanted.package, wanted.architecture, *pinned])}.json"


def read_record(path: Path, wanted: Wanted) -> Resolution | None:
    """Read a record; None if there is none, or it is not of this package or not whole: then it is asked for again."""
    try:
        data = json.loads(path.read_text())
        found = Resolution(Resolved(**data["resolved"]), datetime.fromisoformat(data["date"]).isoformat())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if found.resolved.package == wanted.package else None


@contextlib.contextmanager
def apt_root(archive: Archive, wanted: Wanted, runtime: Runtime) -> Iterator[AptRoot]:
    """Yield the apt root for a package; it is held by one build at a time."""
    chosen = debian_mirror(archive.mirror)
    name = f"apt/{wanted.suite}-{wanted.architecture}"
    with archive.store.workspace(name) as held, apt_place(held.path, runtime) as place:
        yield AptRoot(place, wanted.suite, wanted.architecture, chosen, runtime)


def _ask(archive: Archive, wanted: Wanted, runtime: Runtime) -> Resolution:
    with apt_root(archive, wanted, runtime) as root:
        root.update()
        resolved = root.resolve(wanted.package, wanted.version)
    return Resolution(resolved, datetime.now(UTC).isoformat(timespec="seconds"))
