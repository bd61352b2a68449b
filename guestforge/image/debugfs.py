"""debugfs, the file system editor of e2fsprogs: writes a tree into an ext4 image, and reads an image back.

Its scripts are lines of words in double quotes (a quote inside is doubled) and end with exit code 0 whatever failed
in them; so names that could break out of a line are refused, and every line of output must be one that we expect.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from guestforge.core.errors import BuildError, UserError
from guestforge.core.runtime import Runtime
from guestforge.rootfs.tree import Device, Directory, File, Node, Symlink, Tree, file_type

# debugfs reads a script's line into 8 KiB and cuts what is longer
LINE_MAX = 8000
_EXPECTED = re.compile(r"(debugfs \d.*|Allocated inode: \d+|)")
_FULL = re.compile(r"Could not allocate (block|inode) in")
_LETTERS = {"char": "c", "block": "b"}


class FullError(Exception):
    """The tree does not fit the file system."""


def populate(tree: Tree, image: Path, work: Path, runtime: Runtime, *, offset: int, time: int) -> None:
    """Write a tree into an empty file system that begins at byte `offset` of an image.

    `work` is a directory for scratch files; `time`, in seconds since 1970, goes into every time stamp. Raises
    FullError when the tree does not fit, UserError for a name that a script cannot hold, BuildError for the rest.
    """
    sources = work / "sources"
    sources.mkdir()
    lines = list(script(tree, sources))
    (work / "script").write_bytes(b"".join(line + b"\n" for line in lines))
    argv = ["debugfs", "-w", "-f", "script", target(work, image, offset)]
    done = runtime.run(argv, cwd=work, env={"E2FSPROGS_FAKE_TIME": str(time)})
    _check_output(done.output, lines)


def target(work: Path, image: Path, offset: int) -> str:
    """Return the name by which debugfs, run in `work`, finds an image: a plain one, since '?' begins options."""
    link = work / "target"
    link.unlink(missing_ok=True)
    link.symlink_to(image.absolute())
    return f"{link.name}?offset={offset}"


def script(tree: Tree, sources: Path) -> Iterator[bytes]:
    """Yield the commands that make a tree, and put each file's content below `sources` under a number."""
    here = None
    for number, node in enumerate(tree):
        if node.path != "/":
            parent = node.path.rpartition("/")[0] or "/"
            if parent != here:
                here = parent
                yield command("cd", parent)
            yield _make(node, sources / str(number))
        yield from _attributes(node)


def _make(node: Node, source: Path) -> bytes:
    name = node.path.rpartition("/")[2]
    match node:
        case File():
            source = source.with_name("empty") if node.source == b"" else source  # one for all of them
            _stage(node, source)
            return command("write", f"{source.parent.name}/{source.name}", name)
        case Directory():
            return command("mkdir", name)
        case Symlink():
            return command("symlink", name, node.target)
        case Device():
            return command("mknod", name, _LETTERS[node.kind], str(node.major), str(node.minor))


def _stage(node: File, source: Path) -> None:
    if isinstance(node.source, bytes):
        source.write_bytes(node.source)
    else:
        source.symlink_to(node.source.absolute())


def _attributes(node: Node) -> Iterator[bytes]:
    """Yield what sets mode and owner, which debugfs otherwise takes from the host's file or leaves at 0."""
    name = "/" if node.path == "/" else "./" + node.path.rpartition("/")[2]
    yield command("set_inode_field", name, "mode", f"0{file_type(node) | node.mode:o}")
    for field, value in (("uid", node.uid), ("gid", node.gid)):
        if value:
            yield command("set_inode_field", name, field, str(value))


def command(name: str, *words: str) -> bytes:
    """Return a line of a script; raises UserError for a word that a line cannot hold."""
    line = os.fsencode(" ".join([name, *(_quoted(word) for word in words)]))
    if len(line) > LINE_MAX:
        raise UserError(f"ext4 image: {words[0][:80]!r}... is too long for debugfs")
    return line


def _quoted(word: str) -> str:
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in word):
        raise UserError(f"ext4 image: {word!r} holds a control character, which debugfs cannot write")
    return '"' + word.replace('"', '""') + '"'


def _check_output(output: str, lines: list[bytes]) -> None:
    if _FULL.search(output):
        raise FullError
    echoes = {f"debugfs: {line.decode('utf-8', 'replace')}" for line in lines}
    said = output.split("\n")
    faults = [line for line in said if line not in echoes and not _EXPECTED.fullmatch(line)]
    if faults or sum(line in echoes for line in said) != len(lines):
        raise BuildError("debugfs could not write the file system", excerpt="\n".join(faults[:20]))
