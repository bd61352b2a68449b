"""The step that every source of Debian's is: a package's file, fetched by apt and verified, and unpacked."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from guestforge.core.need import Need
from guestforge.core.progress import bar
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Used
from guestforge.core.store import NOTHING, Inputs
from guestforge.sources.aptroot import Resolved
from guestforge.sources.resolution import Archive, Wanted, apt_root, resolve

Unpack = Callable[[Path, Path, Resolved, Runtime], None]  # of a package's file, into an entry; which version it is


def debian_step(
    name: str,
    archive: Archive,
    wanted: Wanted,
    unpack: Unpack,
    *,
    code: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
    needs: tuple[Need, ...] = (),
    inputs: Inputs = NOTHING,
) -> Step:
    """Return the step that fetches a package and unpacks it; `inputs` are what its key has besides the version.

    It raises UserError for an unknown package or a host without Debian's keys, BuildError for the network, and what
    `unpack` raises. How a package is fetched has no part in what is in it: its digest is an input, and apt compares it.
    """

    @cache
    def resolved(runtime: Runtime) -> Resolved:
        return resolve(archive, wanted, runtime)

    def read(runtime: Runtime) -> Mapping[str, Any]:
        return {**asdict(resolved(runtime)), **inputs}

    def make(out: Path, _used: Used, runtime: Runtime) -> None:
        with downloaded(archive, wanted, resolved(runtime), runtime) as deb:
            unpack(deb, out, resolved(runtime), runtime)

    return Step(name, read, make, code, outputs, variant=wanted.package, needs=needs, weight="network")


@contextmanager
def downloaded(archive: Archive, wanted: Wanted, resolved: Resolved, runtime: Runtime) -> Iterator[Path]:
    """Yield a package's file, verified; it goes when the block is left."""
    with archive.store.temporary("download") as place, apt_root(archive, wanted, runtime) as root:
        with bar(f"fetching {resolved.package} {resolved.version}", resolved.size, "B") as shown:
            deb = root.download(resolved, place, shown.update)
        yield deb
