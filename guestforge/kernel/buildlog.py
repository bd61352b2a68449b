"""What make prints: which lines are progress, and which one is the first real error.

Kbuild prints `  CC      fs/read_write.o` for each object; with several jobs the lines of many compilers are mixed, and
the last ones are make's own `Error 1`, which say nothing.
"""

import re
from dataclasses import dataclass

CONTEXT = 6  # lines of a compiler's message to show

_OBJECT = re.compile(r"  (?:CC|AS)(?: \[M\])? +\S")
_STEP = re.compile(r"  [A-Z][A-Z0-9_-]*(?: \[M\])? +\S|make(?:\[\d+\])?: |In file included from ")
_FULL = re.compile(r"No space left on device")
# The compiler, the assembler; the linker; programs of the tree; make on its own account. In this order of worth.
# They are compiled where a build failed: each start would pay for that.
_ERRORS = (
    r"(?P<place>[^\s:][^:\n]*:\d+(?::\d+)?): (?:fatal |internal compiler )?[eE]rror: (?P<what>.+)",
    r"(?P<place>)(?P<what>\S*(?:gcc|cc1|ld|as): (?:fatal |internal compiler )?error: .+)",
    r"(?P<place>[^\s:][^:\n]*?):(?:\([^)]*\):)? (?P<what>undefined reference to .+)",
    r"\S*ld: (?P<place>[^:\n]+?:(?:\([^)]*\):)?) ?(?P<what>(?:undefined reference|multiple definition).+)",
    r"(?P<place>)(?P<what>\S*ld: .+)",
    r"(?P<place>)(?P<what>(?:ERROR: modpost|error|Error|ERROR|\S+: error|\S+: fatal): .+)",
    r"(?P<place>)(?P<what>(?:/bin/)?(?:ba)?sh: (?:line )?\d+: .+)",
    r"(?P<place>[^\s:]+:\d+): \*\*\* (?P<what>(?!\[).+)",
    r"(?P<place>)(?P<what>make(?:\[\d+\])?: \*\*\* (?!\[|Waiting).+)",
)


@dataclass(frozen=True, slots=True)
class FirstError:
    """The first real error: `file:line:column` below the tree (empty where there is none), and what it says."""

    place: str
    what: str
    excerpt: str
    disk_full: bool


def is_object(line: str) -> bool:
    """Whether a line says that an object is compiled."""
    return _OBJECT.match(line) is not None


def first_error(output: str, tree: str) -> FirstError | None:
    """Return the first real error of a build's output; `tree` is cut from the names of files."""
    lines = output.replace(f"{tree}/", "").splitlines()
    full = any(_FULL.search(line) for line in lines)
    for pattern in (*([_FULL] if full else ()), *map(re.compile, _ERRORS)):
        for number, line in enumerate(lines):
            if match := pattern.search(line) if pattern is _FULL else pattern.match(line):
                found = match.groupdict()
                place, what = found.get("place") or "", found.get("what") or line.strip()
                return FirstError(place.rstrip(":"), what, _excerpt(lines, number), full)
    return None


def _excerpt(lines: list[str], start: int) -> str:
    """Return a message's lines: up to the next step of the build."""
    kept = [lines[start]]
    for line in lines[start + 1 : start + CONTEXT]:
        if _STEP.match(line):
            break
        kept.append(line)
    return "\n".join(kept)
