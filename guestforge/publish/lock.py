"""A file that says which digests a release must have: written at the first fetch, compared at each that follows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guestforge.core.errors import UserError
from guestforge.core.files import read_regular
from guestforge.manifest import write_json
from guestforge.release.documents import Digest, Name, first_fault

LIMIT: Final = 1024 * 1024  # bytes; a release of a thousand files takes 200 KiB
SHOWN: Final = 20  # files in an error


class Lock(BaseModel):
    """What the file says: the release's version, and the SHA-256 of each of its files."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    schema_: Literal[1] = Field(alias="schema")
    version: Annotated[str, Field(max_length=128)]
    files: dict[Name, Digest]


def read_lock(path: Path) -> Lock | None:
    """Return what a lock file says, None where there is none; raises UserError for one that is none."""
    try:
        data = read_regular(path, LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"--lock {path}: {e.strerror}") from e
    if data is None:
        raise UserError(f"--lock {path}: this is no file, or a link to one")
    if len(data) > LIMIT:
        raise UserError(f"--lock {path} has more than {LIMIT} bytes: it is no lock file")
    try:
        return Lock.model_validate_json(data)
    except ValidationError as e:
        raise UserError(f"--lock {path} is no lock file: {first_fault(e)}") from e


def require_locked(lock: Lock, path: Path, version: str, files: Mapping[str, str]) -> None:
    """Raise UserError unless a release is the one that a lock file has."""
    lines = [f"version {version}; locked is {lock.version}"] if version != lock.version else []
    lines += [_difference(name, files, lock) for name in sorted(files.keys() | lock.files.keys())
              if files.get(name) != lock.files.get(name)]  # fmt: skip
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise UserError(
            f"what was fetched is not what {path} has",
            excerpt="\n".join([*lines[:SHOWN], *more]),
            hint="fetch the version that is locked; where the new one is wanted, remove the file",
        )


def _difference(name: str, files: Mapping[str, str], lock: Lock) -> str:
    if name not in files:
        return f"{name}: missing"
    return f"{name}: it has another SHA-256" if name in lock.files else f"{name}: it is not in the lock file"


def write_lock(path: Path, version: str, files: Mapping[str, str]) -> None:
    """Write a lock file whole or not at all."""
    write_json(path, {"schema": 1, "version": version, "files": dict(files)})
