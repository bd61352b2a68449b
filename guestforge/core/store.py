"""The content-addressed store: what a step made, under a key that is the hash of all that the step read.

    <cache>/store/<step>/<key>/     what the step made, read only by convention; step.json has the key's inputs
    <cache>/tmp/                    entries in the making, each in a scratch directory with a lock that its maker holds
    <cache>/locks/                  one lock an entry: two builds of the same thing wait for each other

An entry appears whole or not at all: it is made under tmp/, synced, and renamed into place. What a killed build left
in tmp/ is removed by the next one that finds its lock free.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from guestforge.core import sparse
from guestforge.core.cache import Place, open_cache, private_directory, user_cache
from guestforge.core.errors import UserError
from guestforge.core.files import disk_errors, open_regular, sync_directory, sync_tree
from guestforge.core.locks import locked
from guestforge.core.progress import bar, say
from guestforge.core.runtime import ON_HOST
from guestforge.core.scratch import scratch_directory, sweep

Inputs = Mapping[str, Any]  # JSON values only
NOTHING: Inputs = MappingProxyType({})
LONG_DIGEST = 1024**3  # bytes; a SHA-256 over more takes seconds, and its progress is shown
TEMPORARY = r"[a-z]+\."  # what the name of a directory in the cache's `tmp` begins with: a word, for whoever looks
KEY_LENGTH = 32  # hex digits, 128 bits of SHA-256


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's SHA-256 in hex and its size in bytes, taken when it was made.

    One with holes has its `sparse.digest` too: that is what it is compared by, since the SHA-256 takes a time that goes
    by the size.
    """

    sha256: str
    size: int
    data: str | None = None

    def are_of(self, path: Path) -> bool:
        """Whether a path is a file with these facts, and no link to one."""
        file = open_regular(path) if path.exists() else None
        if file is None:
            return False
        with file:
            if os.fstat(file.fileno()).st_size != self.size:
                return False
            if self.data is not None:
                return sparse.digest(file.fileno()) == self.data
            return sparse.sha256(file.fileno()) == self.sha256

    def published(self) -> dict[str, str | int]:
        """Return what a manifest says of the file."""
        return {"sha256": self.sha256, "size": self.size}


@dataclass(frozen=True, slots=True)
class Entry:
    """A published result. `reused` tells whether it was there before this run asked for it."""

    path: Path
    step: str
    key: str
    inputs: Inputs
    files: Mapping[str, "FileFacts"]  # the files at its top, not those of folders in it
    reused: bool
    runtime: str = ON_HOST  # where its programs ran
    times: "Times | None" = None  # none is known of what older versions made

    def file(self, name: str) -> Path:
        """Return where a file at its top is, found to be what the step made; a process reads each file once for that.

        Raises UserError for one that has been changed since.
        """
        path = self.path / name
        _require_same(path, self.files[name])
        return path


@dataclass(frozen=True, slots=True)
class Times:
    """When an entry was begun and finished, as RFC 3339 has it: UTC, to the second, so that they sort as text."""

    started: str
    finished: str


@dataclass(frozen=True, slots=True)
class Record:
    """What an entry says of itself: all of its step.json, and when that was written (seconds since 1970)."""

    path: Path
    made: float
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory that is ours alone while `lock`, an open descriptor, is held.

    A program that works in it is given the descriptor too (`run`'s `pass_fds`): should we be killed, what is left of it
    goes on for a while, and the next build must wait for that.
    """

    path: Path
    lock: int


class Store:
    """The store below a cache directory, the user's by default. Raises UserError for one that `open_cache` refuses.

    What a killed build left in it is removed at once, for there may be nothing to be made.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = open_cache(Place(cache.absolute()) if cache else user_cache())
        sweep(self.cache / "tmp", TEMPORARY)

    def path(self, step: str, inputs: Inputs) -> Path:
        """Return where the entry of these inputs is or would be."""
        return self.cache / "store" / step / key_of(step, inputs)

    def find(self, step: str, inputs: Inputs) -> Entry | None:
        """Return the entry of these inputs if it has been made."""
        path = self.path(step, inputs)
        try:
            facts = json.loads((path / "step.json").read_text())
            files = {name: FileFacts(**row) for name, row in facts["files"].items()}
            times = Times(**facts["times"]) if "times" in facts else None
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise _damaged(path, "step.json") from e
        runtime = str(facts.get("runtime", ON_HOST))
        return Entry(path, step, path.name, inputs, files, reused=True, runtime=runtime, times=times)

    def get_or_build(
        self,
        step: str,
        inputs: Inputs,
        build: Callable[[Path], None],
        about: Inputs = NOTHING,
        *,
        started: str | None = None,
    ) -> Entry:
        """Return the entry of these inputs; where there is none, have `build` fill an empty directory and publish it.

        `about` is kept in step.json too, and has no part in the key. `started` is when the work began, if not now.
        Raises what `build` raises, with nothing published, and BuildError when the disk is full.
        """
        if found := self.find(step, inputs):
            return found
        path = self.path(step, inputs)
        with disk_errors(self.cache), self._lock(f"{step}-{path.name}"):
            if found := self.find(step, inputs):  # another build made it while we waited
                return found
            with self.temporary(step) as made:
                started = started or now()
                build(made)
                times = Times(started, now())
                files = {file.name: _facts(file) for file in made.iterdir() if file.is_file()}
                facts = {**about, "step": step, "inputs": inputs, "times": asdict(times)}
                _write_facts(made / "step.json", facts, files)
                sync_tree(made)
                private_directory(self.cache / "store")
                private_directory(path.parent)
                made.rename(path)
                sync_directory(path.parent)
        runtime = str(about.get("runtime", ON_HOST))
        return Entry(path, step, path.name, inputs, files, reused=False, runtime=runtime, times=times)

    def newest(self, step: str, title: str) -> "Record | None":
        """Return what the newest entry with a title says of itself, None if there is none."""
        records = (_record(path) for path in (self.cache / "store" / step).glob("*/step.json"))
        mine = [record for record in records if record and record.facts.get("title") == title]
        return max(mine, key=lambda record: record.made, default=None)

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator["Workspace"]:
        """Yield a directory that is kept between builds and held by one build at a time (a kernel's object files)."""
        path = self.cache / "work" / name
        with disk_errors(self.cache), self._lock(f"work-{name.replace('/', '-')}") as lock:
            private_directory(self.cache / "work")
            path.mkdir(parents=True, exist_ok=True)
            yield Workspace(path, lock)

    @contextlib.contextmanager
    def temporary(self, name: str) -> Iterator[Path]:
        """Yield an empty directory on the store's file system, removed unless it was renamed away.

        `name` is a word, for whoever looks. Raises BuildError when the disk is full.
        """
        root = private_directory(self.cache / "tmp")
        # not `name-`: an older version takes those by another lock, and would remove ours while they are held
        with disk_errors(self.cache), scratch_directory(f"{name}.", root, sweeps=TEMPORARY) as holder:
            made = holder / "entry"
            made.mkdir()
            yield made

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[int]:
        place = private_directory(self.cache / "locks") / name
        with locked(place, lambda: say(f"waiting for another build that is making {name}")) as lock:
            yield lock


def now() -> str:
    """Return the time as `Times` has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _damaged(entry: Path, name: str) -> UserError:
    """Return the error for an entry of which a file is not what its step made."""
    return UserError(
        f"{entry / name} in the store is not what was put there", hint=f"rm -r {entry}; the next build makes it anew"
    )


@cache
def _require_same(path: Path, facts: FileFacts) -> None:
    if not facts.are_of(path):
        raise _damaged(path.parent, path.name)


def _facts(path: Path) -> FileFacts:
    with path.open("rb", buffering=0) as file:
        descriptor, size = file.fileno(), path.stat().st_size
        if not sparse.has_holes(descriptor):
            return FileFacts(sparse.sha256(descriptor), size)
        if size < LONG_DIGEST:
            return FileFacts(sparse.sha256(descriptor), size, sparse.digest(descriptor))
        with bar(f"SHA-256 of {path.name}", size, "B") as shown:
            return FileFacts(sparse.sha256(descriptor, shown.update), size, sparse.digest(descriptor))


def _record(path: Path) -> Record | None:
    try:
        facts = json.loads(path.read_text())
        return Record(path.parent, path.stat().st_mtime, facts) if isinstance(facts, dict) else None
    except (FileNotFoundError, ValueError):
        return None


def _write_facts(path: Path, facts: Mapping[str, Any], files: Mapping[str, FileFacts]) -> None:
    facts = {**facts, "files": {name: asdict(row) for name, row in files.items()}}
    path.write_text(json.dumps(facts, indent=1, sort_keys=True))


def key_of(step: str, inputs: Inputs) -> str:
    """Return the key of a step's inputs: a hash of their canonical JSON."""
    text = json.dumps([step, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
