"""What a guest is made to do on a storage, and how the host judges it.

A step is one run of the probe in a container whose root is on the storage. The probe only does and tells; each
verdict is made here, from what the guest said it saw and from what the host sees afterwards, both against what follows
from the run's nonce.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from guestforge.check import fixtures
from guestforge.check.hostview import HostView
from guestforge.rootfs.tree import File, Symlink, Tree

Answer = Mapping[str, Any]  # the JSON object that the probe printed: a guest's word, so any value of any type
Problem = str | None
Judge = Callable[[Answer], Problem]
Look = Callable[[HostView], Problem]

WRITTEN_SIZE = 1024 * 1024 + 321
TRUNCATED_SIZE = 1_234
NEW_MODE = 0o751
SHOWN = 160  # characters of a guest's value in a message


def _nothing_to_see(_: HostView) -> Problem:
    return None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: the probe's arguments, the judge of its answer, and what the host must see from then on."""

    what: str
    args: tuple[str, ...]
    judge: Judge
    look: Look = _nothing_to_see


class ExerciseError(Exception):
    """A step whose outcome is not the one that it must be."""


def perform(steps: Sequence[Step], ask: Callable[[Sequence[str]], Answer], view: HostView | None) -> None:
    """Do each step in the guest and judge it; with a `view`, the host looks at once. Raises ExerciseError."""
    for step in steps:
        problem = step.judge(ask(step.args))
        if problem:
            raise ExerciseError(f"{step.what}, seen by the guest: {problem}")
        if view is not None:
            _look(step, view)


def look_back(steps: Sequence[Step], view: HostView) -> None:
    """Look at what all steps together must have left behind. Raises ExerciseError."""
    for step in steps:
        _look(step, view)


def _look(step: Step, view: HostView) -> None:
    if problem := step.look(view):
        raise ExerciseError(f"{step.what}, seen by the host: {problem}")


def steps(nonce: str, tree: Tree, fstype: str) -> tuple[Step, ...]:
    """Return what is done on a storage that holds `tree` and that the guest must have mounted as `fstype`."""
    return (
        Step("the mount", ("mounts",), _mounted(fstype)),
        *(_read(tree, path) for path in ("/data/nonce", "/data/blob")),
        # flags whose values differ between architectures, and which a server may take for others
        *(_read(tree, "/data/blob", flag) for flag in ("direct", "nofollow")),
        *(_stat(tree, path) for path in ("/data/nonce", "/data/mode", "/data/many")),
        _link(tree, "/data/link"),
        Step("the listing of /data/many", ("list", "/data/many"), _listed(_names(tree, "/data/many"))),
        *_changes(nonce, tree),
    )


def root_steps(tree: Tree, fstype: str) -> tuple[Step, ...]:
    """Return what shows that a container's root is a storage that holds `tree`, seen as `fstype`."""
    return (Step("the mount", ("mounts",), _mounted(fstype)), _read(tree, "/data/nonce"))


def writing(seed: str, size: int, path: str, look: Look) -> Step:
    """Return the writing of what follows from a seed to a path, and what the host must see of that."""
    return Step(f"a new file {path}", ("write", path, str(size), seed), _wrote(seed, size), look)


def holds_pattern(path: str, seed: str, size: int) -> Look:
    """Return the look for what `writing` has written."""

    def look(view: HostView) -> Problem:
        return _holds(path, pattern(seed, size))(view)

    return look


def is_gone(path: str) -> Look:
    """Return the look for nothing at a path."""

    def look(view: HostView) -> Problem:
        return f"{path} is there" if view.stat(path) else None

    return look


def _changes(nonce: str, tree: Tree) -> tuple[Step, ...]:
    seed = written_seed(nonce)
    kept = _file(tree, "/data/old")
    cut = _file(tree, "/data/long")[:TRUNCATED_SIZE]
    return (
        writing(seed, WRITTEN_SIZE, "/out/written", holds_pattern("out/written", seed, WRITTEN_SIZE)),
        Step("rename", ("rename", "/data/old", "/data/new"), _did,
             _both(is_gone("data/old"), _holds("data/new", kept))),
        Step("unlink", ("unlink", "/data/doomed"), _did, is_gone("data/doomed")),
        Step("chmod", ("chmod", "/data/mode", f"{NEW_MODE:04o}"), _did, _has_mode("data/mode", "file", NEW_MODE)),
        Step("the mode after chmod", ("stat", "/data/mode"), _agrees({"mode": NEW_MODE})),
        Step("truncate", ("truncate", "/data/long", str(TRUNCATED_SIZE)), _did, _holds("data/long", cut)),
        Step("the size after truncate", ("stat", "/data/long"), _agrees({"size": TRUNCATED_SIZE})),
        Step("mkdir", ("mkdir", "/out/directory", "0711"), _did, _has_mode("out/directory", "directory", 0o711)),
    )  # fmt: skip


def written_seed(nonce: str) -> str:
    """Return the seed of what the guest is to write: nothing that the tree already holds."""
    return hashlib.sha256(f"{nonce}/written".encode()).hexdigest()


@lru_cache(maxsize=4)
def pattern(seed: str, size: int) -> bytes:
    """Return what the probe's `write` makes of a seed: SHA-256 of the seed and a block's number, block after block."""
    blocks = (hashlib.sha256(f"{seed}:{number}".encode()).digest() for number in range(-(-size // 32)))
    return b"".join(blocks)[:size]


# What the guest says


def _agrees(expected: Mapping[str, Any]) -> Judge:
    """Judge an answer by the values that it must have; values that are not asked for do not matter."""

    def judge(answer: Answer) -> Problem:
        wrong = {key: value for key, value in expected.items() if answer.get(key) != value}
        return "; ".join(f"{key} is {_shown(answer.get(key))}, not {_shown(value)}" for key, value in wrong.items())

    return judge


_did = _agrees({"ok": True})


def _read(tree: Tree, path: str, *flags: str) -> Step:
    content = _file(tree, path)
    expected = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    how = f", opened with {' '.join(flags)}" if flags else ""
    return Step(f"the content of {path}{how}", ("read", path, *flags), _agrees(expected))


def _stat(tree: Tree, path: str) -> Step:
    node = tree.find(path)
    assert node is not None
    expected: dict[str, Any] = {"mode": node.mode, "mtime": fixtures.MTIME}
    expected |= {"type": "file", "size": node.size} if isinstance(node, File) else {"type": "directory"}
    return Step(f"the metadata of {path}", ("stat", path), _agrees(expected))


def _link(tree: Tree, path: str) -> Step:
    node = tree.find(path)
    assert isinstance(node, Symlink)
    return Step(f"the symbolic link {path}", ("stat", path), _agrees({"type": "symlink", "target": node.target}))


def _wrote(seed: str, size: int) -> Judge:
    def judge(answer: Answer) -> Problem:
        digest = hashlib.sha256(pattern(seed, size)).hexdigest()  # only now: no boot waits for it to begin
        return _agrees({"size": size, "sha256": digest})(answer)

    return judge


def _listed(expected: Sequence[str]) -> Judge:
    def judge(answer: Answer) -> Problem:
        names = answer.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return f"names is {_shown(names)}, not a list of names"
        if sorted(names) == sorted(expected):
            return None
        lost = len(set(expected) - set(names))
        return f"{len(names)} names, not {len(expected)}; {lost} are missing, {len(set(names) - set(expected))} are new"

    return judge


def _mounted(fstype: str) -> Judge:
    """Judge the guest's mount table: the last mount on the container's root is the one in use."""

    def judge(answer: Answer) -> Problem:
        mounts = answer.get("mounts")
        if not isinstance(mounts, list):
            return f"mounts is {_shown(mounts)}, not a list of mounts"
        roots = [mount.get("fstype") for mount in mounts if isinstance(mount, dict) and mount.get("target") == "/"]
        return None if roots[-1:] == [fstype] else f"the root is of type {_shown(roots[-1:])}, not {fstype}"

    return judge


# What the host sees


def _holds(path: str, expected: bytes) -> Look:
    def look(view: HostView) -> Problem:
        found = view.read(path)
        if found is None:
            return f"no file {path}"
        return None if found == expected else f"{path} holds {_described(found)}, not {_described(expected)}"

    return look


def _has_mode(path: str, kind: str, mode: int) -> Look:
    def look(view: HostView) -> Problem:
        seen = view.stat(path)
        if seen is None or seen.kind != kind:
            return f"no {kind} {path}"
        return None if seen.mode == mode else f"{path} has mode {seen.mode:04o}, not {mode:04o}"

    return look


def _both(first: Look, second: Look) -> Look:
    return lambda view: first(view) or second(view)


def _names(tree: Tree, path: str) -> tuple[str, ...]:
    return tuple(node.path.rpartition("/")[2] for node in tree if node.path.rpartition("/")[0] == path)


def _file(tree: Tree, path: str) -> bytes:
    node = tree.find(path)
    assert isinstance(node, File)
    return node.source if isinstance(node.source, bytes) else node.source.read_bytes()


def _described(data: bytes) -> str:
    return f"{len(data)} bytes of SHA-256 {hashlib.sha256(data).hexdigest()[:16]}..."


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
