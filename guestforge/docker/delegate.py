"""A task run in the builder image: the same command, on the same files at the same paths.

The network is there for as long as something is fetched: a first container makes the virtual environment of the
builder's Python and fetches what the build takes from elsewhere, and a second one, without network, does the work.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from docker.types import Mount

from guestforge.arch import Arch
from guestforge.core.cache import VARIABLE, VENVS, open_cache, user_cache
from guestforge.core.environment import PASSED_THROUGH
from guestforge.core.errors import UserError
from guestforge.core.files import try_directory
from guestforge.core.need import Need
from guestforge.core.progress import complain
from guestforge.core.runtime import INSIDE
from guestforge.docker.apt import proxies
from guestforge.docker.builder import Recipe, find_builder, recipe
from guestforge.docker.container import Command, Runs, run, shared
from guestforge.docker.engine import Engine, find_engine
from guestforge.docker.owner import remove_orphans
from guestforge.docker.shipping import shipped
from guestforge.docker.spread import spread
from guestforge.host.packages import SWITCH
from guestforge.project.folder import Project
from guestforge.project.layout import CHECKOUT

VENV: Final = "GUESTFORGE_VENV"  # where ./invoke has its virtual environment
# Of the user's environment what says how packages and modules are fetched, and how output looks.
FETCHING: Final = ("PIP_", "GO")
LOOKS: Final = ("CI", "NO_COLOR", "TERM", "COLUMNS", "GITHUB_ACTIONS", "GITLAB_CI", "SOURCE_DATE_EPOCH")
# What every program of ours gets, and names places of the host's.
OWN: Final = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
# How the host fetches: apt's sources, keys and credentials, pip's settings, the certificates that it trusts.
HOST: Final = ("/etc/apt", "/usr/share/keyrings", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
OF_THE_USER: Final = (".config/pip", ".pip", ".netrc")


@dataclass(frozen=True, slots=True)
class Errand:
    """A task with its words, and what it is about: words have absolute paths, and name no architecture.

    `engines` are the addresses of those over which the architectures are spread; none for the usual one.
    """

    task: str
    words: Sequence[str]
    arches: tuple[Arch, ...]
    needs: Iterable[Need]
    project: Project
    guest: str
    output: Path
    readable: tuple[Path, ...]
    mirror: str | None
    once: bool  # one container will do, with network: it makes nothing, or only fetches
    engines: tuple[str, ...] = ()


def delegate(errand: Errand) -> int:
    """Run a task in containers of the builder image; return its exit code.

    Raises UserError for an engine that can't be used, BuildError for one that fails.
    """
    made_of = recipe(errand.arches, errand.needs, errand.mirror, errand.project.recipes)
    runs = Runs()
    if not errand.engines:
        return _deliver(find_engine(), errand, made_of, runs)

    def one(engine: Engine, arch: Arch) -> int:
        return _deliver(engine, replace(errand, arches=(arch,)), made_of, runs, prefix=f"{arch.name}: ")

    return spread(errand.arches, _engines(errand.engines), one, lambda arch: arch.name, runs.interrupt)


def _engines(addresses: Sequence[str]) -> list[Engine]:
    """Return the engines that answer. Raises UserError where none does, and for what is no address."""
    found, errors = [], []
    for address in addresses:
        try:
            found.append(find_engine(address))
        except UserError as e:
            errors.append(e)
    for error in errors if found else errors[1:]:
        complain(error)
    if not found:
        raise errors[0]
    return found


def _deliver(engine: Engine, errand: Errand, made_of: Recipe, runs: Runs, *, prefix: str = "") -> int:
    """Run a task at an engine, on this machine's files or on those that are sent there."""
    remove_orphans(engine)
    image = find_builder(engine, made_of)
    if not errand.once:
        try_directory(errand.output, "--output")
        errand.output.mkdir(parents=True, exist_ok=True)
    cache = open_cache(user_cache())
    command = _command(errand, image, cache, made_of.tag)

    def perform(mounts: list[Mount]) -> int:
        mounted = replace(command, mounts=mounts)
        if errand.once:
            return run(engine, image, mounted, runs, prefix=prefix)
        fetching = replace(mounted, words=(*command.words, "--fetch-only"))
        for each in (fetching, replace(mounted, network=False)):
            if code := run(engine, image, each, runs, prefix=prefix):
                return code
        return 0

    if engine.is_here:
        return perform(_here(errand, cache))
    if errand.readable:
        raise UserError(f"{errand.readable[0]} is not sent to an engine on another machine", hint="--runtime host")
    with shipped(engine, image, cache, (CHECKOUT, errand.project.root), errand.output) as files:
        code = perform(files.mounts)
        if not errand.once:
            files.bring_home(errand.output, [f"{arch.name}/{errand.guest}" for arch in errand.arches])
        return code


def _command(errand: Errand, image: str, cache: Path, tag: str) -> Command:
    """Return the task as a command with network, and with no files yet."""
    home = Path.home()
    arches = (arch.name for arch in errand.arches)
    return Command(
        words=(str(CHECKOUT / "invoke"), errand.task, *errand.words, f"--arch={','.join(arches)}"),
        environment=_environment(cache, cache / VENVS / tag, home, f"docker {image}"),
        cwd=CHECKOUT,
        mounts=(),
        network=True,
        home=home,
    )


def _here(errand: Errand, cache: Path) -> list[Mount]:
    """Return the mounts of what a task reads and writes of this machine."""
    home = Path.home()
    wheels = (Path(word) for word in os.environ.get("PIP_FIND_LINKS", "").split() if word.startswith("/"))
    settings = (*map(Path, HOST), *(home / name for name in OF_THE_USER), *wheels)
    readable = (CHECKOUT, errand.project.root, *errand.readable, *settings)
    writable = (cache, *(path for path in (errand.output,) if path.is_dir()))
    return shared(writable, [path for path in readable if path.exists()])


def _environment(cache: Path, venv: Path, home: Path, runtime: str) -> dict[str, str]:
    taken = {
        name: value
        for name, value in os.environ.items()
        if name in LOOKS or name.startswith(FETCHING) or (name in PASSED_THROUGH and name not in OWN)
    }
    own = {"HOME": str(home), VARIABLE: str(cache), VENV: str(venv), SWITCH: "never", INSIDE: runtime}
    return {**proxies(os.environ), **taken, **own}
