"""An overlay: a folder of a project's own files, which are laid over a guest's root file system.

Of a file its content counts and whether its owner may execute it, as for git: other bits of its mode depend on who
checked it out, and a recipe gives them (`modes`). All belongs to root in the guest.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from guestforge.arch import Arch
from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import digest_file
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Used
from guestforge.project.load import Folders, nearest
from guestforge.sources.kernel_tree import TREE

STEP: Final = "overlay"


@dataclass(frozen=True, slots=True)
class Item:
    """What a path of an overlay is; `content` is a file's SHA-256, or where a link leads."""

    path: str
    kind: Literal["directory", "file", "program", "link"]
    content: str = ""


def overlay_step(arch: Arch, name: str, overlays: Folders) -> Step:
    """Return the step that makes an entry with an overlay's files below `tree/`.

    It raises UserError where there is no such folder, or something in it that is no file, directory or link.
    """

    @cache
    def asked() -> list[Item]:
        return items(find_overlay(name, overlays))  # read once: the entry must be what its key says

    def inputs(_: Runtime) -> Mapping[str, Any]:
        return {"files": digest(asked())}

    def make(out: Path, _: Used, __: Runtime) -> None:
        folder = find_overlay(name, overlays)
        try:
            _copy(folder, asked(), out / TREE)
        except FileNotFoundError as e:
            raise _changed(folder) from e
        if items(out / TREE) != asked():
            raise _changed(folder)

    return Step(STEP, inputs, make, code=(__name__,), arch=arch.name, variant=name)


def find_overlay(name: str, overlays: Folders) -> Path:
    """Return an overlay's folder: the first of its name. Raises UserError, with the nearest name, where none is."""
    for folder in (folders := [each / name for each in overlays]):
        if folder.is_dir():
            return folder
    there = sorted({path.name for each in overlays if each.is_dir() for path in each.iterdir() if path.is_dir()})
    raise UserError(f"no overlay {name!r}: there is no folder {' and no '.join(map(str, folders))}",
                    hint=nearest(name, there))  # fmt: skip


def items(folder: Path) -> list[Item]:
    """Return all that is in an overlay, in a fixed order. Raises UserError for what can't be in a guest's image."""
    return sorted(_walk(folder), key=lambda item: item.path)


def digest(found: Sequence[Item]) -> str:
    """Return a SHA-256 in hex over all that an image reads of an overlay."""
    return hashlib.sha256(json.dumps([astuple(item) for item in found]).encode()).hexdigest()


def _walk(folder: Path) -> Iterator[Item]:
    for directory, names, files in os.walk(folder, onerror=_refuse):
        for name in (*names, *files):
            path = Path(directory, name)
            yield _item(path, path.relative_to(folder).as_posix())


def _item(path: Path, name: str) -> Item:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return Item(name, "link", os.readlink(path))  # noqa: PTH115 - Path would change the target's spelling
    if stat.S_ISDIR(mode):
        return Item(name, "directory")
    if not stat.S_ISREG(mode):
        raise UserError(f"overlay: {path} is no file, directory or link", hint="a guest's devices are devtmpfs's")
    try:
        return Item(name, "program" if mode & stat.S_IXUSR else "file", digest_file(path))
    except OSError as e:
        raise _unreadable(path, e) from e


def _copy(folder: Path, found: Sequence[Item], out: Path) -> None:
    out.mkdir()
    for item in found:  # a directory's path comes before those below it
        target = out / item.path
        match item.kind:
            case "directory":
                target.mkdir()
            case "link":
                target.symlink_to(item.content)
            case _:
                shutil.copyfile(folder / item.path, target, follow_symlinks=False)
                if not target.is_symlink():  # as it is where a file became one meanwhile: the comparison will tell
                    target.chmod(0o755 if item.kind == "program" else 0o644)


def _changed(folder: Path) -> BuildError:
    return BuildError(f"overlay {folder} was changed while it was read", hint="build again")


def _refuse(error: OSError) -> None:
    raise _unreadable(Path(error.filename), error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"overlay: {path} can't be read: {error.strerror}")
