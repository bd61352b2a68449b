"""The kernel tree that a Debian package `linux-source-*` holds: a tarball in the package, patched as Debian does."""

import os
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from guestforge.core.errors import BuildError
from guestforge.core.progress import bar
from guestforge.core.runtime import Runtime

CHUNK = 256 * 1024
MAX_TARBALL = 2 * 1024**3  # bytes, compressed; Debian's is 145 MiB
TARBALL = re.compile(r"(?:\./)?usr/src/linux-source-[\w.]+\.tar\.xz")
NEVER_ENDS = 600.0  # seconds after its input's end in which tar must be done


def unpack(deb: Path, target: Path, runtime: Runtime) -> int:
    """Unpack the kernel tree of a package into `target`; return the date of the tarball, in seconds since 1970.

    The tarball's date is that of the package's changelog: dpkg-deb clamps all dates to it
    (https://reproducible-builds.org/specs/source-date-epoch/).
    Raises BuildError for a package without a tree, and for one that tries to leave `target`.
    """
    target.mkdir()
    log = target.parent / "unpack.log"
    argv = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with log.open("w+b") as errors, runtime.spawn(argv, stdout=subprocess.PIPE, stderr=errors) as package:
        assert package.popen.stdout is not None
        try:
            date = _unpack_tarball(package.popen.stdout, target, errors, runtime)
        except tarfile.TarError as e:
            raise BuildError(f"{deb.name} is no package: {e}", excerpt=log.read_text(errors="replace")) from e
    log.unlink()
    return date


def _unpack_tarball(package: IO[bytes], target: Path, errors: IO[bytes], runtime: Runtime) -> int:
    with tarfile.open(fileobj=package, mode="r|") as outer:
        for member in outer:
            if member.isfile() and TARBALL.fullmatch(member.name):
                if member.size > MAX_TARBALL:
                    raise BuildError(f"{member.name} has {member.size} bytes; this is no kernel tree")
                content = outer.extractfile(member)
                assert content is not None
                with bar("unpacking the kernel source", member.size, "B") as shown:
                    _untar(content, target, errors, shown.update, runtime)
                return int(member.mtime)
    raise BuildError(
        "the package holds no usr/src/linux-source-*.tar.xz", hint="is `package` in the recipe the right one?"
    )


def _untar(
    tarball: IO[bytes], target: Path, errors: IO[bytes], on_bytes: Callable[[int], None], runtime: Runtime
) -> None:
    """Feed a tarball to GNU tar, which refuses names and links that lead out of the directory it unpacks into.

    It is several times as fast as Python's tarfile, and xz takes all processors for Debian's many-block archives.
    """
    argv = ["tar", "--extract", "--use-compress-program=xz -T0", "--strip-components=1", f"--directory={target}",
            "--no-same-owner", "--no-same-permissions", "--file=-"]  # fmt: skip
    with runtime.spawn(argv, stdin=subprocess.PIPE, stdout=errors, stderr=errors) as tar:
        assert tar.popen.stdin is not None
        try:
            while data := tarball.read(CHUNK):
                tar.popen.stdin.write(data)
                on_bytes(len(data))
            tar.popen.stdin.close()
        except BrokenPipeError:
            pass  # tar has said why
        if tar.wait(NEVER_ENDS) != 0:
            errors.seek(0)
            raise BuildError(
                "the kernel source could not be unpacked",
                excerpt=errors.read()[-2000:].decode(errors="replace"),
                hint="a full disk, or a damaged archive",
            )


def make_read_only(tree: Path) -> None:
    """Take the write permission from all files and directories of a tree: no build may leave anything in it."""
    for directory, _, names in os.walk(tree, topdown=False):
        for path in (*(Path(directory, name) for name in names), Path(directory)):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o555)
