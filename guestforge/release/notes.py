"""Release notes: a template, ours or the project's own, filled with what is told of the guests and what has changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from guestforge.project.template import render_template
from guestforge.release.facts import Boot, Told

TEMPLATE: Final = "release-notes.md.j2"  # in a folder of recipes
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Difference:
    """What came, what went, and what has another value: from what to what, each by its name and in order."""

    came: Mapping[str, Any]
    went: Mapping[str, Any]
    changed: Mapping[str, tuple[Any, Any]]

    def __bool__(self) -> bool:
        return bool(self.came or self.went or self.changed)


@dataclass(frozen=True, slots=True)
class Change:
    """How a guest of one architecture differs from that of an earlier release."""

    guest: str
    arch: str
    kernel: tuple[str, str] | None
    options: Difference
    packages: Difference
    modules: Difference
    sizes: Difference
    boots: Difference  # the seconds until the agent answered, by artifact


@dataclass(frozen=True, slots=True)
class Changes:
    """How a release differs from an earlier one: guests that are in both, and the names of the others."""

    version: str
    changes: tuple[Change, ...]
    came: tuple[str, ...]
    went: tuple[str, ...]


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Difference:
    """Return how two mappings differ."""
    both = sorted(before.keys() & after.keys())
    return Difference(
        came={name: after[name] for name in sorted(after.keys() - before.keys())},
        went={name: before[name] for name in sorted(before.keys() - after.keys())},
        changed={name: (before[name], after[name]) for name in both if before[name] != after[name]},
    )


def changes(before: Sequence[Told], after: Sequence[Told]) -> Changes:
    """Return how the guests of a release differ from those of an earlier one, which has at least one."""
    old, new = ({f"{one.guest} {one.arch}": one for one in guests} for guests in (before, after))
    return Changes(
        version=before[0].version,
        changes=tuple(_change(old[name], new[name]) for name in new if name in old),
        came=tuple(name for name in new if name not in old),
        went=tuple(name for name in old if name not in new),
    )


def _change(before: Told, after: Told) -> Change:
    return Change(
        guest=after.guest,
        arch=after.arch,
        kernel=(before.kernel, after.kernel) if before.kernel != after.kernel else None,
        options=difference(_set(before.options), _set(after.options)),
        packages=difference(before.packages, after.packages),
        modules=difference(before.modules, after.modules),
        sizes=difference(before.sizes, after.sizes),
        boots=difference(_ready(before.boots), _ready(after.boots)),
    )


def _set(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options that are set: one that is `n` has gone as much as one that is not there."""
    return {name: value for name, value in options.items() if value != "n"}


def _ready(boots: Mapping[str, Boot]) -> dict[str, float | None]:
    return {artifact: boot.phases.get("agent_ready") for artifact, boot in boots.items()}


def render(template: Path, guests: Sequence[Told], since: Changes | None) -> bytes:
    """Return the notes. Raises UserError, with file and line, for a template that is wrong or names what is not."""
    values = {"version": guests[0].version, "guests": guests, "since": since}
    text = render_template(template, values, documented="docs/releasing.md", filters=FILTERS)
    return text.encode("utf-8", "backslashreplace")


def _mib(size: float | None) -> str:
    return "unknown" if size is None else f"{size / MIB:.1f} MiB"


def _seconds(time: float | None) -> str:
    return "unknown" if time is None else f"{time:.2f} s"


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "mib": _mib,
    "kib_as_mib": lambda size: _mib(None if size is None else size * 1024),
    "seconds": _seconds,
}
