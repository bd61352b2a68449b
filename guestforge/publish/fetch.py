"""The consumer's side: a release fetched, verified, and laid out as an output directory is."""

from dataclasses import dataclass
from pathlib import Path

from guestforge.core.files import disk_errors
from guestforge.core.progress import say
from guestforge.core.scratch import scratch_directory
from guestforge.publish.layout import require_ours, settle, unpack
from guestforge.publish.lock import read_lock, require_locked, write_lock
from guestforge.publish.place import Place, outgoing
from guestforge.release.names import SUFFIX
from guestforge.release.sign import Judge
from guestforge.release.verify import Verified, verify_release


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched: what is known of it, and the directories of its guests."""

    verified: Verified
    guests: tuple[Path, ...]


def fetch_release(place: Place, output: Path, judge: Judge, lock: Path | None) -> Fetched:
    """Fetch a release, verify it, compare it with the lock, and then lay it out below `output`, a guest at a time.

    Nothing is changed there before all of it is unpacked, and known to be good.
    """
    locked = read_lock(lock) if lock else None
    with disk_errors(output, "give --output"):
        output.mkdir(parents=True, exist_ok=True)
        with scratch_directory(".fetch.", output) as scratch:
            directory = scratch / "release"
            directory.mkdir()
            place.fetch(directory)
            verified = verify_release(directory, judge)
            release = outgoing(directory, verified)
            digests = release.digests
            if lock and locked:
                require_locked(locked, lock, release.version, digests)
            places = {name: output / one.arch / one.guest for name, one in release.manifests.items()}
            for target in places.values():
                require_ours(target)
            for name in places:
                unpack(release.path(name), digests[name], scratch / name.removesuffix(SUFFIX))
                release.path(name).unlink()
            for name, target in places.items():
                settle(scratch / name.removesuffix(SUFFIX), target)
    if lock and not locked:
        write_lock(lock, release.version, digests)
        say(f"{lock}: the digests of {release.version}, which the next fetch is compared with")
    return Fetched(verified, tuple(places.values()))
