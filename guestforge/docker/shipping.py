"""Files of a container on an engine that has none of ours: sent once into volumes, and what was made brought home.

A volume is all that an engine keeps of a path. That of the cache stays, so that the next build goes on from there; the
others are gone with the run.
"""

import contextlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import Mount

from guestforge.core.errors import BuildError
from guestforge.core.files import atomic_copy
from guestforge.core.progress import bar
from guestforge.core.scratch import scratch_directory
from guestforge.core.store import FileFacts
from guestforge.docker.engine import Engine, engine_errors
from guestforge.docker.owner import LABEL, ours
from guestforge.manifest import MANIFEST
from guestforge.project.folder import FILE
from guestforge.project.layout import AGENT_SOURCES, FRAGMENTS, INVOKE, OVERLAYS, RECIPES
from guestforge.project.lock import LOCK

# What a task reads of a checkout or a project. Neither git's files nor tests nor what was made go over.
SENT: Final = (
    "guestforge", "tasks.py", "tools", "pyproject.toml", "requirements.lock", FILE, LOCK,
    INVOKE.name, RECIPES.name, FRAGMENTS.name, OVERLAYS.name, AGENT_SOURCES.parent.name,
)  # fmt: skip
AGAIN: Final = "the same command again"
MAX_FILES: Final = 10_000  # of a guest's output directory, which has about a dozen
MAX_SIZE: Final = 256 * 1024**3  # bytes of them, as of a release's file


class Shipped:
    """The volumes of a run: `mounts` has them, `bring_home` fetches what is in the one of the output."""

    def __init__(self, holder: Container, mounts: list[Mount], engine: Engine) -> None:
        self.mounts = mounts
        self._holder = holder
        self._engine = engine

    def bring_home(self, output: Path, folders: Iterable[str]) -> None:
        """Take over what was made in folders of the output directory.

        Raises BuildError for what is no guest's output, or not what its manifest says; nothing is changed then.
        """
        for folder in folders:
            with scratch_directory(".docker.", output) as scratch:
                made = scratch / "made"
                made.mkdir()
                if self._fetch(output / folder, made):
                    _require_whole(made, folder)
                    _take_over(made, output / folder)

    def _fetch(self, path: Path, made: Path) -> bool:
        """Unpack what is at a path there; return False where nothing is."""
        with engine_errors(self._engine, f"fetching {path}"):
            try:
                pieces, _ = self._holder.get_archive(str(path))
            except NotFound:
                return False
            with bar(f"fetching {path.name}", None, "B") as shown:
                unpack(pieces, made, shown.update)
        return True


@contextlib.contextmanager
def shipped(engine: Engine, image: str, cache: Path, sent: Iterable[Path], output: Path) -> Iterator[Shipped]:
    """Send folders to an engine, for as long as a block lasts."""
    run = f"guestforge-{secrets.token_hex(8)}"
    paths = dict.fromkeys((*sent, output))
    volumes = {path: f"{run}-{number}" for number, path in enumerate(paths)}
    cached = {cache: f"guestforge-cache-{os.geteuid()}"}
    mounts = [Mount(str(path), name, type="volume") for path, name in {**volumes, **cached}.items()]
    with engine_errors(engine, "sending files to the engine"):
        for name in volumes.values():
            engine.client.volumes.create(name, labels={LABEL: ours()})
        holder = engine.client.containers.create(
            image, ["true"], mounts=mounts, labels={LABEL: ours()}, network_mode="none"
        )
    try:
        with engine_errors(engine, "sending files to the engine"):
            for path in (*volumes, cache):
                holder.put_archive(str(path), _packed(path if path in sent else None))
        yield Shipped(holder, mounts, engine)
    finally:
        with contextlib.suppress(Exception):  # an engine that is gone has nothing that could be removed
            holder.remove(force=True)
            for name in volumes.values():
                engine.client.volumes.get(name).remove()


def _packed(folder: Path | None) -> io.BytesIO:
    """Return the tar of what a task reads of a folder: ours, whoever the engine's user is."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as tar:
        root = tarfile.TarInfo(".")
        root.type, root.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(_ours(root))
        for name in SENT if folder else ():
            if folder and (folder / name).exists():
                tar.add(folder / name, name, filter=_taken)
    found.seek(0)
    return found


def _taken(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if PurePosixPath(info.name).name == "__pycache__" else _ours(info)


def _ours(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid, info.gid, info.uname, info.gname = os.geteuid(), os.getegid(), "", ""
    return info


def unpack(pieces: Iterable[bytes], made: Path, moved: Callable[[int], None]) -> None:
    """Write the files of a tar, whose one folder becomes `made`. Raises BuildError for anything but files and folders.

    No name leads out of it, and there is an end to their number and size.
    """
    count = size = 0
    try:
        with tarfile.open(fileobj=_Pieces(pieces), mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                parts = PurePosixPath(member.name).parts[1:]
                count, size = count + 1, size + member.size
                if not (member.isreg() or member.isdir()) or ".." in parts or member.name.startswith("/"):
                    raise BuildError(f"the engine sent {member.name!a}, which is no file of a guest's")
                if count > MAX_FILES or size > MAX_SIZE:
                    raise BuildError("the engine sent more than a guest can have")
                if member.isdir():
                    made.joinpath(*parts).mkdir(exist_ok=True, parents=True)
                    continue
                _write(tar.extractfile(member), made.joinpath(*parts), moved)
    except (tarfile.TarError, EOFError) as e:
        raise BuildError(f"what the engine sent is no tar, or is cut: {e}", hint=AGAIN) from e


def _write(source: Any, path: Path, moved: Callable[[int], None]) -> None:  # noqa: ANN401 - tarfile's own reader
    with path.open("xb") as file:
        while data := source.read(1024 * 1024):
            moved(file.write(data))


class _Pieces:
    """Pieces of bytes, read as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, None)) is not None:
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _require_whole(made: Path, folder: str) -> None:
    """Raise BuildError for artifacts that are not those of their manifest; what a task made in part has none."""
    if not (made / MANIFEST).is_file():
        return
    try:
        artifacts = json.loads((made / MANIFEST).read_text())["artifacts"]
        facts = {str(name): FileFacts(str(row["sha256"]), int(row["size"])) for name, row in artifacts.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise BuildError(f"{folder}: the engine sent a {MANIFEST} that can't be read") from e
    for name, wanted in facts.items():
        if "/" in name or not wanted.are_of(made / name):
            raise BuildError(f"{folder}: {name!a} of the engine is not what {MANIFEST} says", hint=AGAIN)


def _take_over(made: Path, place: Path) -> None:
    """Copy what was made over what is there; a manifest goes before anything changes, and the new one comes last."""
    place.mkdir(parents=True, exist_ok=True)
    (place / MANIFEST).unlink(missing_ok=True)
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    for name in sorted(files, key=lambda name: name == Path(MANIFEST)):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        atomic_copy(made / name, place / name)
