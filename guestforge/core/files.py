"""Files: written whole or not at all, digested, forced to disk, removed."""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from guestforge.core import sparse
from guestforge.core.errors import BuildError, UserError
from guestforge.core.signals import held

TRIAL = 4096  # bytes that must fit where something will be written
SYNC_ONE_BY_ONE = 1000  # files; a larger tree is synced with its file system
IN_THE_WAY = {"EBUSY", "EEXIST", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENOTDIR", "ENOTEMPTY", "EPERM"}
FULL = os.strerror(errno.ENOSPC).lower()
_syncfs = ctypes.CDLL(None, use_errno=True).syncfs


@contextlib.contextmanager
def disk_errors(where: Path, choice: str = "set GUESTFORGE_CACHE to") -> Iterator[None]:
    """Turn a full or read-only disk into an error that names the place; `choice` is how to choose another one.

    Programs that we start meet a full disk too: what they said of it gets the same remedy. Something else where a file
    or directory of ours should be is the user's to move: UserError.
    """
    remedies = {
        "ENOSPC": f"free some space there (`./invoke clean`), or {choice} a larger disk",
        "EDQUOT": f"free some of your quota there, or {choice} another disk",
        "EROFS": f"{choice} a directory that can be written",
        "EACCES": f"{choice} a directory that you may write",
    }
    try:
        yield
    except OSError as e:
        name = errno.errorcode.get(e.errno or 0, "")
        if name in IN_THE_WAY:
            hint = f"move away what is there, or {choice} another directory"
            raise UserError(f"{e.strerror}: {e.filename2 or e.filename or where}", hint=hint) from e
        if name not in remedies:
            raise
        raise BuildError(f"{e.strerror}: {e.filename or where}", hint=remedies[name]) from e
    except BuildError as e:
        if FULL in e.message.lower() or FULL not in (e.excerpt or "").lower():
            raise
        message = f"{os.strerror(errno.ENOSPC)}: {e.message}"
        raise BuildError(message, hint=remedies["ENOSPC"], excerpt=e.excerpt) from e


def try_directory(path: Path, chosen_by: str) -> None:
    """Find out whether a directory can be written, or made; nothing is left of that.

    Raises UserError, in which `chosen_by` is what named it.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            path.lstat()
        there = next(each for each in (path, *path.parents) if os.path.lexists(each))
        if max(len(os.fsencode(part)) for part in path.parts) > os.statvfs(there).f_namemax:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        _write_somewhere(there)
    except OSError as e:
        hint = "name a directory that can be written"
        raise UserError(f"{chosen_by} {str(path)!r} can't be used: {e.strerror}", hint=hint) from e


def require_temporary_directory() -> None:
    """Raise UserError for a TMPDIR that can't be used, of which Python would say nothing, and when nothing else can."""
    chosen = os.environ.get("TMPDIR", "")
    try:
        if chosen:
            _write_somewhere(Path(chosen))
        tempfile.gettempdir()
    except OSError as e:
        hint = "set TMPDIR to another directory"
        raise UserError(f"TMPDIR {chosen!r} can't be used: {e.strerror}", hint=hint) from e


def _write_somewhere(directory: Path) -> None:
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(TRIAL))


def require_file(path: Path, chosen_by: str) -> None:
    """Raise UserError unless a path is a file that we may read; `chosen_by` is what named it."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as e:
        raise UserError(f"{chosen_by} {path}: {e.strerror}") from e
    if not regular:
        raise UserError(f"{chosen_by} {path}: this is no file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{chosen_by} {path}: {os.strerror(errno.EACCES)}")


def open_regular(name: str | Path, dir_fd: int | None = None) -> IO[bytes] | None:
    """Open a file to read where somebody else may have put anything; None for what is no regular file.

    A link is not followed, and a pipe or a device is not opened: to open one may be to do something (a watchdog, a
    tape). Raises OSError where there is nothing.
    """
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        return Path(f"/proc/self/fd/{found}").open("rb")  # the same inode, whatever has the name by now
    finally:
        os.close(found)


def read_regular(path: Path, most: int) -> bytes | None:
    """Return the first `most` bytes of a file, as `open_regular` opens it; None for what is no regular file."""
    file = open_regular(path)
    if file is None:
        return None
    with file:
        return file.read(most)


def read_text(path: Path, most: int, what: str, *, name: str | None = None) -> str:
    """Return the text of a user's file that may have `most` bytes; `what` it should be, and its name in messages.

    Raises UserError for what can't be read, is larger, or is not UTF-8.
    """
    shown = name or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as e:
        raise UserError(f"{shown}: {e.strerror}") from e
    if len(data) > most:
        raise UserError(f"{shown}: larger than {most} bytes; this is no {what}")
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise UserError(f"{shown}: byte {e.start} is not UTF-8", hint=f"a {what} is UTF-8 text") from e


def digest_file(path: Path) -> str:
    """Return a file's SHA-256 in hex; nothing is read of its holes."""
    with path.open("rb", buffering=0) as file:
        return sparse.sha256(file.fileno())


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
    temporary = None
    try:
        with held():
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            temporary = Path(name)
            file = os.fdopen(descriptor, mode)
        with file:
            os.fchmod(file.fileno(), 0o644)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise


def atomic_copy(source: Path, target: Path) -> None:
    """Copy a file so that `target` is the old one or the whole new one at any moment; holes stay holes."""
    with source.open("rb", buffering=0) as reader, atomic_file(target) as writer:
        sparse.copy(reader.fileno(), writer.fileno())


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


def remove(path: Path) -> None:
    """Remove a file, a link itself, or a directory with all below it."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink()


def remove_tree(root: Path) -> None:
    """Remove a directory and all below it, those too that we may not write or even list.

    A kernel's source is kept in the former; what unpacks an image and is interrupted may leave the latter.
    """
    root.chmod(0o700)
    for directory, names, _ in os.walk(root):  # lists a directory once its parent's turn here is over
        for path in (Path(directory, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(root)
