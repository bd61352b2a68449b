"""The content-addressed store: what a step made, under a key that is the hash of all that the step read.

    <cache>/store/<step>/<key>/     what the step made, read only by convention; step.json has the key's inputs
    <cache>/tmp/                    entries in the making, each with a lock that its maker holds
    <cache>/locks/                  one lock an entry: two builds of the same thing wait for each other

An entry appears whole or not at all: it is made under tmp/, synced, and renamed into place. What a killed build left
in tmp/ is removed by the next one that finds its lock free.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from guestforge.errors import BuildError
from guestforge.progress import say

Inputs = Mapping[str, Any]  # JSON values only
READ_SIZE = 1024 * 1024
KEY_LENGTH = 32  # hex digits, 128 bits of SHA-256
SYNC_ONE_BY_ONE = 1000  # files; a larger tree is synced with its file system
_syncfs = ctypes.CDLL(None, use_errno=True).syncfs


def user_cache_dir() -> Path:
    """Return the cache directory: $GUESTFORGE_CACHE, else guestforge below $XDG_CACHE_HOME, else below ~/.cache."""
    if own := os.environ.get("GUESTFORGE_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "guestforge"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's SHA-256 in hex and its size in bytes, taken when it was made."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A published result. `reused` tells whether it was there before this run asked for it."""

    path: Path
    step: str
    key: str
    inputs: Inputs
    files: Mapping[str, "FileFacts"]  # the files at its top, not those of folders in it
    reused: bool


class Store:
    """The store below a cache directory."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache or user_cache_dir()

    def path(self, step: str, inputs: Inputs) -> Path:
        """Return where the entry of these inputs is or would be."""
        return self.cache / "store" / step / key_of(step, inputs)

    def find(self, step: str, inputs: Inputs) -> Entry | None:
        """Return the entry of these inputs if it has been made."""
        path = self.path(step, inputs)
        try:
            facts = json.loads((path / "step.json").read_text())
        except FileNotFoundError:
            return None
        files = {name: FileFacts(**row) for name, row in facts["files"].items()}
        return Entry(path, step, path.name, inputs, files, reused=True)

    def get_or_build(self, step: str, inputs: Inputs, build: Callable[[Path], None]) -> Entry:
        """Return the entry of these inputs; where there is none, have `build` fill an empty directory and publish it.

        Raises what `build` raises, with nothing published, and BuildError when the disk is full.
        """
        if found := self.find(step, inputs):
            return found
        path = self.path(step, inputs)
        with disk_errors(self.cache), self._lock(f"{step}-{path.name}"):
            if found := self.find(step, inputs):  # another build made it while we waited
                return found
            with self._temporary(step) as made:
                build(made)
                files = {file.name: _facts(file) for file in made.iterdir() if file.is_file()}
                _write_facts(made / "step.json", step, inputs, files)
                sync_tree(made)
                path.parent.mkdir(parents=True, exist_ok=True)
                made.rename(path)
                sync_directory(path.parent)
        return Entry(path, step, path.name, inputs, files, reused=False)

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """Yield a directory that is kept between builds and held by one build at a time (a kernel's object files)."""
        path = self.cache / "work" / name
        with disk_errors(self.cache), self._lock(f"work-{name.replace('/', '-')}"):
            path.mkdir(parents=True, exist_ok=True)
            yield path

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        directory = self.cache / "locks"
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another build that is making {name}")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _temporary(self, step: str) -> Iterator[Path]:
        """Yield an empty directory on the store's file system, removed unless it was renamed away."""
        root = self.cache / "tmp"
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            with (self.cache / "locks" / "tmp").open("w") as gate:  # nobody sweeps what is not yet locked
                fcntl.flock(gate, fcntl.LOCK_EX)
                _sweep(root)
                made = stack.enter_context(_held_directory(root, step))
            yield made


def _facts(path: Path) -> FileFacts:
    return FileFacts(digest_file(path), path.stat().st_size)


def _write_facts(path: Path, step: str, inputs: Inputs, files: Mapping[str, FileFacts]) -> None:
    facts = {"step": step, "inputs": inputs, "files": {name: asdict(row) for name, row in files.items()}}
    path.write_text(json.dumps(facts, indent=1, sort_keys=True))


@contextlib.contextmanager
def _held_directory(root: Path, step: str) -> Iterator[Path]:
    """Make a directory whose lock is held as long as we live, however we end."""
    holder = Path(tempfile.mkdtemp(prefix=f"{step}-", dir=root))
    with (holder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = holder / "entry"
        made.mkdir()
        try:
            yield made
        finally:
            shutil.rmtree(holder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what builds that were killed left behind: those whose lock nobody holds any more."""
    for holder in root.iterdir():
        with contextlib.suppress(BlockingIOError, FileNotFoundError), (holder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(holder, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error that names the place."""
    remedies = {
        "ENOSPC": "free some space there (`./invoke clean`), or set GUESTFORGE_CACHE to a larger disk",
        "EDQUOT": "free some of your quota there, or set GUESTFORGE_CACHE to another disk",
        "EROFS": "set GUESTFORGE_CACHE to a directory that can be written",
        "EACCES": "set GUESTFORGE_CACHE to a directory that you may write",
    }
    try:
        yield
    except OSError as e:
        name = errno.errorcode.get(e.errno or 0, "")
        if name not in remedies:
            raise
        raise BuildError(f"{e.strerror}: {e.filename or where}", hint=remedies[name]) from e


def key_of(step: str, inputs: Inputs) -> str:
    """Return the key of a step's inputs: a hash of their canonical JSON."""
    text = json.dumps([step, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def digest_file(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(*paths: Path) -> str:
    """Return a SHA-256 over names, executable bits and contents of files and of all files below directories.

    Byte code and other caches do not count: they follow from what does.
    """
    state = hashlib.sha256()
    for path in paths:
        for file in sorted(_files(path)):
            name = file.relative_to(path.parent).as_posix()
            executable = os.access(file, os.X_OK)
            state.update(f"{name}\0{executable:d}\0{digest_file(file)}\n".encode())
    return state.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.name != "__pycache__":
        for child in path.iterdir():
            yield from _files(child)


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Yield a file that takes the place of `path` once the block is left without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, mode) as file:
            os.fchmod(file.fileno(), 0o644)
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def atomic_copy(source: Path, target: Path) -> None:
    """Copy a file so that `target` is the old one or the whole new one at any moment; holes stay holes."""
    with source.open("rb", buffering=0) as reader, atomic_file(target) as writer:
        for start, end in _extents(reader):
            writer.seek(start)
            for at in range(start, end, READ_SIZE):
                writer.write(os.pread(reader.fileno(), min(READ_SIZE, end - at), at))
        writer.truncate(os.fstat(reader.fileno()).st_size)


def _extents(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Yield where a file has data, as lseek(2) knows it; one extent where the file system records no holes."""
    size = os.fstat(file.fileno()).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # nothing but a hole to the end
                return
            raise
        end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        yield start, end


def sync_tree(root: Path) -> None:
    """Force a tree's files and directories to disk.

    A large tree is synced with its whole file system: measured on a kernel's 90,000 files, that takes 1.4 s and
    one fsync a file takes 44 s. For a few files it is the other way round, for it waits for everybody else's writes.
    """
    paths = [Path(directory, name) for directory, _, names in os.walk(root) for name in names]
    if len(paths) > SYNC_ONE_BY_ONE:
        _sync_file_system(root)
        return
    for path in paths:
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for directory, _, _ in os.walk(root):
        sync_directory(Path(directory))


def _sync_file_system(path: Path) -> None:
    """Call syncfs(2), which Python has no name for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Force a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
