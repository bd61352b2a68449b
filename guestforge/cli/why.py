"""Why a step would be made anew, in words."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from guestforge.core.code import code_files
from guestforge.core.graph import Evaluation
from guestforge.core.step import Step
from guestforge.core.store import Inputs

ABSENT: Final = "nothing"


def explain(evaluation: Evaluation, step: Step) -> Iterator[str]:
    """Yield what in a step's key has changed since its newest entry in the store; nothing is made."""
    *_, prospect = evaluation.outlook(step)
    if prospect.inputs is None:
        yield f"{step.title}: its key is not known before there is {', '.join(prospect.missing)}"
        return
    here = evaluation.store.path(step.name, prospect.inputs)
    if prospect.state == "reused":
        yield f"{step.title}: nothing has changed, its entry is {here}"
        return
    before = evaluation.store.newest(step.name, step.title)
    if before is None:
        yield f"{step.title}: the store has no entry of it yet"
        return
    yield f"{step.title}: changed since {before.path}"
    yield from (f"  {line}" for line in _changes(before.facts, prospect.inputs, dict(code_files(*step.code))))


def _changes(before: Mapping[str, Any], inputs: Inputs, code: Mapping[str, str]) -> Iterator[str]:
    was, now = (_flat({name: facts[name] for name in facts if name != "code"}) for facts in (before["inputs"], inputs))
    for name in sorted(was.keys() | now.keys()):
        if was.get(name, ABSENT) != now.get(name, ABSENT):
            yield f"{name}: {was.get(name, ABSENT)} -> {now.get(name, ABSENT)}"
    for module in sorted(before["code"].keys() | code.keys()):
        if before["code"].get(module) != code.get(module):
            yield f"code: {module} {_how(module in before['code'], module in code)}"


def _how(was: bool, now: bool) -> str:
    return "has changed" if was and now else "is new" if now else "is gone"


def _flat(value: Any, name: str = "") -> dict[str, str]:  # noqa: ANN401 - any JSON value
    """Return each value of nested objects under its path, with dots."""
    if isinstance(value, Mapping) and value:
        rows = (_flat(each, f"{name}.{key}" if name else str(key)) for key, each in value.items())
        return {path: text for row in rows for path, text in row.items()}
    return {name: json.dumps(value)}
