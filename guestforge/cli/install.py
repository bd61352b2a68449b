"""`./invoke install`: what it is asked for, and what it says."""

from collections.abc import Iterator

from guestforge.arch import Arch
from guestforge.cli.release import build_command
from guestforge.core.errors import UserError
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.progress import say
from guestforge.core.store import Store
from guestforge.install.guests import Guest, find_guest
from guestforge.install.layout import Installed, uninstall
from guestforge.install.layout import install as put
from guestforge.install.places import RUNTIMES, Place
from guestforge.project.options import BuildOptions, CheckOptions, InstallOptions
from guestforge.release.proven import NotProvenError


def install(asked: InstallOptions, checks: CheckOptions) -> None:
    """Install a guest that was built or fetched, and has passed its checks; or take away what was installed."""
    place = Place(asked.prefix, asked.destdir)
    if asked.remove:
        gone = uninstall(place)
        say("\n".join(f"{path}: removed" for path in gone) or f"{place.root} has no guest of ours")
        return
    guest = _guest(asked, _only(asked.arches), checks)
    done = put(guest, place, asked.artifact if asked.kata else None)
    for line in _told(guest, place, done, asked):
        say(line)


def _only(arches: tuple[Arch, ...]) -> Arch:
    if len(arches) > 1:
        raise UserError(
            f"--arch {','.join(arch.name for arch in arches)}: a prefix is that of one architecture",
            hint="install each with a --prefix or a --destdir of its own",
        )
    return arches[0]


def _guest(asked: InstallOptions, arch: Arch, checks: CheckOptions) -> Guest:
    options = BuildOptions(
        project=asked.project,
        arches=(arch,),
        guest=asked.guest,
        mirror=asked.mirror,
        agent=asked.agent,
        output=asked.output,
    )
    try:
        return find_guest(arch, options, checks, Evaluation(Store()), Jobserver(1))
    except NotProvenError as e:
        raise UserError(
            f"nothing is installed: {asked.guest} for {arch.name} was not built, or has not passed its checks",
            excerpt="\n".join(e.problems),
            hint=build_command(options, checks),
        ) from e


def _told(guest: Guest, place: Place, done: Installed, asked: InstallOptions) -> Iterator[str]:
    """Yield what a person is told: what is there now, and what of it nobody reads."""
    what = f"{guest.name} for {guest.arch.name}, version {guest.version}"
    yield f"{done.directory}: {what}{'' if done.changed else ', as it was'}"
    yield from (f"{path}: new" for path in done.changed if path != done.directory)
    if asked.kata:
        for runtime in RUNTIMES:
            configuration = place.root / runtime.configuration
            if not configuration.is_file():
                yield f"{configuration} is not there: until it is, {runtime.name} does not read the drop-in beside it"
