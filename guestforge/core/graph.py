"""Steps and what they use, as a graph: in which order, with which keys, from the store or made."""

import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from guestforge.core.code import code_digest, code_files
from guestforge.core.errors import BuildError
from guestforge.core.need import Need, missing
from guestforge.core.runtime import HOST, Runtime
from guestforge.core.step import Step, Use, Used
from guestforge.core.store import Entry, Inputs, Store, now

State = Literal["reused", "made", "depends"]


def walk(*targets: Step) -> tuple[Step, ...]:
    """Return the steps that targets lead to, the targets among them, each once and after all that it uses."""
    uses: dict[Step, list[Step]] = {}
    waiting = list(targets)
    while waiting:
        step = waiting.pop()
        if step not in uses:
            uses[step] = [use.step for use in step.uses.values()]
            waiting += uses[step]
    return tuple(graphlib.TopologicalSorter(uses).static_order())


def needs_of(*targets: Step) -> tuple[Need, ...]:
    """Return what of the host the targets and all that they use take, each once."""
    return tuple(dict.fromkeys(need for step in walk(*targets) for need in step.needs))


@dataclass(frozen=True, slots=True)
class Prospect:
    """What would become of a step: its entry reused, a new one made, or it depends on what is not there yet.

    `inputs` are those of its key, None where it depends on `missing`: steps by their titles, or packages of the host.
    """

    step: Step
    state: State
    inputs: Inputs | None = None
    missing: tuple[str, ...] = ()


class Evaluation:
    """Steps evaluated on a store, each once; their programs run in a runtime."""

    def __init__(self, store: Store, runtime: Runtime = HOST) -> None:
        self.store = store
        self.runtime = runtime
        self._own: dict[Step, Inputs] = {}
        self._entries: dict[Step, Entry] = {}

    def judge(self, *targets: Step) -> None:
        """Read what the steps read besides each other, before any is made; raises UserError for what is wrong in it."""
        for step in reversed(walk(*targets)):
            self._inputs_of(step)

    def entry(self, step: Step) -> Entry:
        """Return a step's entry, made where the store does not have it, and so with all that it uses.

        Raises UserError and BuildError as the steps do.
        """
        if step not in self._entries:
            self._inputs_of(step)
            used = self.used(step)
            inputs = self.inputs(step, used)
            build = partial(_make, step, used, self.runtime)
            self._entries[step] = self.store.get_or_build(step.name, inputs, build, about(step, self.runtime))
        return self._entries[step]

    def find(self, step: Step) -> Entry | None:
        """Return a step's entry where the store has it, and has all that it uses; nothing is made."""
        if step not in self._entries:
            used = {role: self.find(use.step) for role, use in step.uses.items()}
            there = {role: entry for role, entry in used.items() if entry}
            found = self.store.find(step.name, self.inputs(step, there)) if len(there) == len(used) else None
            if found is None:
                return None
            self._entries[step] = found
        return self._entries[step]

    def remade(self, step: Step) -> Entry:
        """Make what a step makes, whether the store has it or not; return its entry, the one of before if there is one.

        Raises as `entry` does.
        """
        self._inputs_of(step)
        used = self.used(step)
        started = now()
        with self.store.temporary(step.name) as made:
            _make(step, used, self.runtime, made)

            def move(out: Path) -> None:
                for path in made.iterdir():
                    path.rename(out / path.name)

            return self.store.get_or_build(
                step.name, self.inputs(step, used), move, about(step, self.runtime), started=started
            )

    def used(self, step: Step) -> dict[str, Entry]:
        """Return the entries of what a step uses, made where they are not there."""
        return {role: self.entry(use.step) for role, use in step.uses.items()}

    def inputs(self, step: Step, used: Used) -> Inputs:
        """Return all that the key of a step's entry is a hash of."""
        return {
            **({"arch": step.arch} if step.arch else {}),
            **({"variant": step.variant} if step.variant else {}),
            **self._inputs_of(step),
            "uses": {role: _content(use, used[role]) for role, use in step.uses.items()},
            "code": code_digest(*step.code),
        }

    def outlook(self, *targets: Step) -> Iterator[Prospect]:
        """Yield what would become of each step, those first that others use; nothing is made."""
        there: dict[Step, Entry] = {}
        for step in walk(*targets):
            absent = [use.step.title for use in step.uses.values() if use.step not in there]
            absent += [need.package for need in missing(step.needs)]
            if absent:
                yield Prospect(step, "depends", missing=tuple(dict.fromkeys(absent)))
                continue
            inputs = self.inputs(step, {role: there[use.step] for role, use in step.uses.items()})
            if entry := self.store.find(step.name, inputs):
                there[step] = entry
            yield Prospect(step, "reused" if entry else "made", inputs)

    def _inputs_of(self, step: Step) -> Inputs:
        if step not in self._own:
            self._own[step] = step.inputs(self.runtime)
        return self._own[step]


def _make(step: Step, used: Used, runtime: Runtime, out: Path) -> None:
    step.make(out, used, runtime)
    for name in step.outputs:
        if not (out / name).is_file():
            raise BuildError(f"{step.title}: the step ended well but made no {name}")


def about(step: Step, runtime: Runtime) -> Mapping[str, Any]:
    """Return what an entry says of its step besides the key's inputs, for `why` and the manifest."""
    return {"title": step.title, "code": dict(code_files(*step.code)), "runtime": runtime.name}


def _content(use: Use, entry: Entry) -> Any:  # noqa: ANN401 - any JSON value
    return {name: entry.files[name].sha256 for name in use.files} if use.files else entry.key
