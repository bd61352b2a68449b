"""The digest of a step's code: of all modules of ours that have a part in what it makes, found and not listed by hand.

From the modules that a step names, every module that a source file names is followed: in an import, and also in a
string, for programs of ours are started by their module's name. Too many is safe, too few is a stale result.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

# Modules that do not count, though those that they lead to do, and why a result can't differ for them. Their names are
# without the package's, or this module would lead to all of them.
_NEUTRAL: Final[Mapping[str, str]] = {
    "arch": "a step has what it reads of an architecture's row among its inputs",
    "cli.render": "how a person sees the work",
    "core.cache": "where the store is",
    "core.code": "which modules count; what is in them does",
    "core.countdown": "how long is waited",
    "core.errors": "nothing is kept of what failed",
    "core.events": "what a person is told of the work",
    "core.graph": "in which order steps are made",
    "core.jobserver": "how many programs run at once",
    "core.locks": "who has to wait",
    "core.need": "what must be installed; its version, where it matters, is an input",
    "core.progress": "how a person sees the work",
    "core.run": "how a program is started and heard; with what, is the module environment's",
    "core.runtime": "where programs run; which ones those are is among the inputs",
    "core.scratch": "where work is done; nothing made may depend on it",
    "core.signals": "when work ends early; nothing is kept then",
    "core.step": "what a step is; what it makes is its own code's",
    "core.store": "where results lie",
    "kernel.buildlog": "words for a build that failed",
    "kernel.estimate": "how far a bar is",
    "project.folder": "where recipes are; a step has their values among its inputs",
    "project.layout": "where files are; what a step reads of them is among its inputs",
    "project.load": "a step has the recipe's values among its inputs",
    "project.models": "a step has the recipe's values among its inputs",
    "project.option": "how options are read",
    "project.options": "a step has what was chosen among its inputs",
}
NEUTRAL: Final[Mapping[str, str]] = {
    ROOT.name: "a step that shows our version has it among its inputs",
    **{f"{ROOT.name}.{name}": reason for name, reason in _NEUTRAL.items()},
}

_NAMED: Final = re.compile(r"\bguestforge(?:\.[A-Za-z_]\w*)+")
_FROM: Final = re.compile(r"^[ \t]*from (guestforge[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


def code_digest(*modules: str, root: Path = ROOT) -> str:
    """Return a SHA-256 over the modules and all that they lead to, in hex; `root` is the package's folder.

    Raises KeyError for a module that is not in it.
    """
    text = "".join(f"{name} {digest}\n" for name, digest in code_files(*modules, root=root).items())
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_files(*modules: str, root: Path = ROOT) -> Mapping[str, str]:
    """Return the SHA-256 of each module's file, by the module's name, sorted; raises KeyError for no module of ours."""
    sources = _sources(root)
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _leads_to(name, root) - seen
    return {name: hashlib.sha256(sources[name]).hexdigest() for name in sorted(seen - NEUTRAL.keys())}


@cache
def _sources(root: Path) -> Mapping[str, bytes]:
    """Return each module's source by the module's name."""
    return {_name(path.relative_to(root.parent)): path.read_bytes() for path in root.rglob("*.py")}


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _leads_to(module: str, root: Path) -> set[str]:
    modules = _sources(root)
    found = {other for name in _names(modules[module].decode()) if (other := _module(name, modules))}
    return found | {main for other in found if (main := f"{other}.__main__") in modules}  # as `python -m` has it


def _names(source: str) -> Iterator[str]:
    for found in _NAMED.finditer(source):
        yield found[0]
    for found in _FROM.finditer(source):
        for word in re.findall(r"\w+", found[2]):
            yield f"{found[1]}.{word}"


def _module(name: str, modules: Mapping[str, bytes]) -> str | None:
    """Return the module that a name is, or is in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None
