"""`./invoke lock`: the newest versions of what a project's guests are made of, asked of the mirror and written down."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import product

from guestforge.arch import PROVEN, Arch
from guestforge.core.errors import UserError
from guestforge.core.progress import say
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.host.packages import ensure
from guestforge.manifest import write_json
from guestforge.project.folder import Project
from guestforge.project.load import names
from guestforge.project.lock import LOCK, Lock, Locked, lock_of
from guestforge.project.models import Guest
from guestforge.project.options import LockOptions
from guestforge.sources.packages import NEEDS
from guestforge.sources.resolution import Archive, Wanted, ask
from guestforge.targets import packages_of, recipes_of


def lock(asked: LockOptions) -> None:
    """Write the project's lock file: what was asked for as it is now, the rest of what its guests want as it was."""
    project = asked.project
    own = names(Guest, project.recipes[:1])
    wanted = _wanted(project, asked.guests or own or [project.settings.guest], asked.arches)
    ensure(NEEDS)
    before = _before(project)
    archive = Archive(Store(), asked.mirror)
    found = [_locked(archive, each, before) for each in wanted]
    kept = _kept(before, _wanted(project, own, PROVEN))
    path, new = project.root / LOCK, lock_of([*kept, *found])
    write_json(path, new.model_dump(mode="json", by_alias=True))
    say(f"{path}: {'as it was' if new == before else 'written'}")


def _wanted(project: Project, guests: Iterable[str], arches: Iterable[Arch]) -> tuple[Wanted, ...]:
    """Return the packages of guests for architectures, each once. Raises UserError for what is wrong with a recipe."""
    found: dict[Wanted, None] = {}
    for name, arch in product(guests, arches):
        _, kernel, rootfs = recipes_of(arch, name, project.recipes)
        found |= dict.fromkeys(packages_of(kernel, rootfs, arch))
    return tuple(found)


def _before(project: Project) -> Lock:
    """Return the lock file as it is; one that can't be read is going to be written anew, and holds nothing back."""
    try:
        return project.lock or Lock(schema=1)
    except UserError as e:
        say(f"warning: {e.message}")
        return Lock(schema=1)


def _locked(archive: Archive, wanted: Wanted, before: Lock) -> Locked:
    found = Locked(suite=wanted.suite, **asdict(ask(archive, wanted, HOST)))
    was = before.find(*found.name)
    change = "as before" if was == found else f"was {was.version}" if was else "new"
    say(f"{found.package} of {found.suite} for {found.architecture}: {found.version} ({change})")
    return found


def _kept(before: Lock, wanted: Iterable[Wanted]) -> Iterator[Locked]:
    """Yield what is locked of that which some guest wants."""
    for each in wanted:
        if found := before.find(each.suite, each.package, each.architecture):
            yield found
