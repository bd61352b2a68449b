"""The matrix: an entry for each guest and architecture, and which of its steps have changed since a revision."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.ci.checkout import Checkout
from guestforge.ci.keys import key_of_all, step_keys
from guestforge.ci.plan import plan
from guestforge.ci.revision import Revision, find_revision, project_at, uncommitted
from guestforge.core.errors import UserError
from guestforge.core.graph import Evaluation
from guestforge.core.progress import say
from guestforge.core.runtime import Runtime
from guestforge.core.store import Store
from guestforge.project.folder import Project
from guestforge.project.layout import RECIPES
from guestforge.project.load import KINDS, names
from guestforge.project.models import Guest

OTHERS: Final = "--guest names those that are built all the same, such as minimal of the checkout"
Keys = Mapping[str, str]  # of steps, by their roles


@dataclass(frozen=True, slots=True)
class Entry:
    """A guest of one architecture; `runner` is empty where the project names none.

    `changed` are the roles of steps whose key is another one than at the revision, or which were not there; None where
    nothing was compared.
    """

    guest: str
    arch: str
    runner: tuple[str, ...]
    steps: Keys
    changed: tuple[str, ...] | None

    @property
    def build(self) -> bool:
        """Whether it must be built."""
        return self.changed is None or bool(self.changed)

    @property
    def key(self) -> str:
        """One key over those of all steps."""
        return key_of_all(self.steps)


@dataclass(frozen=True, slots=True)
class Matrix:
    """All entries, guest by guest, and what they were compared with."""

    entries: tuple[Entry, ...]
    since: Revision | None

    @property
    def built(self) -> tuple[Entry, ...]:
        """The entries that must be built."""
        return tuple(entry for entry in self.entries if entry.build)


def make_matrix(
    project: Project, arches: Iterable[Arch], guests: Iterable[str], since: str | None, runtime: Runtime
) -> Matrix:
    """Return the matrix of a project's guests, all where none is named; `since` is a revision as a user names it.

    Nothing is built, fetched or installed. Raises UserError for a wrong recipe, revision or repository.
    """
    wanted = [(guest, arch) for guest in tuple(guests) or guests_of(project, OTHERS) for arch in arches]
    revision = find_revision(project, since, runtime) if since else None
    evaluation = Evaluation(Store(), runtime)
    now = _keys(project, wanted, evaluation)
    before: Mapping[tuple[str, str], Keys] = {}
    if revision:
        if uncommitted(revision, runtime):
            say("the work tree is compared as it is: some of what it has is in no commit")
        with evaluation.store.temporary("revision") as place:
            before = dict(_known(project_at(project, revision, place, runtime), wanted, evaluation, revision))
    elif since:
        say(f"--changed-since {since[:12]}... names no commit: everything is to be built")
    entries = (
        Entry(
            guest=guest,
            arch=arch.name,
            runner=project.settings.ci.runner_of(arch.name),
            steps=keys,
            changed=_changed(before.get((guest, arch.name), {}), keys) if revision else None,
        )
        for (guest, arch), keys in zip(wanted, now, strict=True)
    )
    return Matrix(tuple(entries), revision)


def guests_of(project: Project, hint: str) -> list[str]:
    """Return the names of the guests that a project has of its own; raises UserError with a hint for none."""
    folder = project.root / RECIPES.name
    found = names(Guest, (folder,))
    if not found:
        raise UserError(f"the project has no guests: there is no recipe in {folder / KINDS[Guest]}", hint=hint)
    return found


def _keys(project: Project, wanted: Iterable[tuple[str, Arch]], evaluation: Evaluation) -> list[Keys]:
    checkout = Checkout(project.checkout)
    return [step_keys(plan(project, guest, arch, evaluation), checkout) for guest, arch in wanted]


def _known(
    project: Project, wanted: Iterable[tuple[str, Arch]], evaluation: Evaluation, revision: Revision
) -> Iterator[tuple[tuple[str, str], Keys]]:
    """Yield the keys at a revision of those guests that it has, and whose recipes can be read."""
    checkout = Checkout(project.checkout)
    for guest, arch in wanted:
        try:
            yield (guest, arch.name), step_keys(plan(project, guest, arch, evaluation), checkout)
        except UserError as e:
            reason = e.message.splitlines()[0].replace(f"{Path(project.root)}/", "")
            say(f"{guest} for {arch.name} counts as new since {revision.name}: {reason}")


def _changed(before: Keys, now: Keys) -> tuple[str, ...]:
    return tuple(role for role, key in now.items() if before.get(role) != key)
