"""Directories for what a run needs only while it lasts, gone afterwards even if it was killed.

Each is locked as long as its maker lives. The next one to be made beside it removes those whose lock is free: a run
that was killed could not.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch_directory(prefix: str, base: Path | None = None) -> Iterator[Path]:
    """Yield a new private directory below `base` ($TMPDIR by default), and remove it afterwards."""
    base = base or Path(tempfile.gettempdir())
    _sweep(base, prefix)
    with contextlib.ExitStack() as stack:
        directory = _made(base, prefix, stack)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)  # before its lock is free
        yield directory


def _made(base: Path, prefix: str, stack: contextlib.ExitStack) -> Path:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as attempt:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            attempt.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            directory.stat()  # somebody may have swept it before it was locked: then another try
            stack.push(attempt.pop_all())
            return directory


def _sweep(base: Path, prefix: str) -> None:
    """Remove our own directories of this prefix that nobody holds. Others may write to `base` too: no link counts."""
    for path in base.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
            finally:
                os.close(descriptor)
