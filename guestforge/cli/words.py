"""A command line, looked at before Invoke parses it: what Invoke says of a wrong one is no help to a user.

invoke [core options] TASK [options of it, and words that it takes without an option] [TASK ...]
"""

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.parser.context import ParserContext
from invoke.program import Program

from guestforge.core.errors import UserError
from guestforge.project.options import LISTS

INVOKE = "invoke.main"  # the module that Invoke's own program begins with
HELP = frozenset({"--help", "-h"})
NO_PLACES: Mapping[str, Sequence[str]] = MappingProxyType({})
COMPLETE = "--complete"  # a shell asks for what could follow half a command line


class Flag(Protocol):
    """An option, as Invoke knows it."""

    @property
    def takes_value(self) -> bool:
        """Whether a value follows."""

    optional: bool  # whether that value may be left out


Flags = Mapping[str, Flag]  # by `--name` and `-n`
Tasks = Mapping[str, Flags]


def judge(namespace: Collection) -> None:
    """Judge the command line of the Invoke that loads these tasks, if it is one that does.

    Raises Exit, of which Invoke prints the message, for one that makes no sense.
    """
    words = sys.argv[1:]
    if INVOKE not in sys.modules or COMPLETE in words:
        return
    # a task that is its collection's default goes by that one's name
    contexts = {str((*context.aliases, context.name)[0]): context for context in namespace.to_contexts()}
    tasks = {name: _by_every_name(context) for name, context in contexts.items()}
    places = {name: [str(arg.name) for arg in context.positional_args] for name, context in contexts.items()}
    try:
        check(words, tasks, _by_every_name(Program().initial_context), places)
    except UserError as error:
        raise Exit(error.report(), code=error.exit_code) from error


def check(words: Sequence[str], tasks: Tasks, core: Flags, places: Mapping[str, Sequence[str]] = NO_PLACES) -> None:
    """Raise UserError for the first word that makes no sense.

    `tasks` has the flags of each, `core` those of Invoke, `places` the names of the words that a task must be given.
    """
    task: str | None = None
    wanted: list[str] = []
    seen: dict[str, str] = {}
    rest = _split(words, core)
    for word in rest:
        own = tasks[task] if task else {}
        if word.startswith("-"):
            flag = own.get(word) or core.get(word)
            if flag is None:
                raise _unknown_option(word, task, tasks, core)
            value = _value(word, flag, rest, {*own, *core}, tasks) if task is None or word in own else None
            if word in own:
                _require_once(word, value, seen)
            elif word in HELP and value is not None and value not in tasks:
                raise _unknown_task(value, tasks)
        elif wanted:
            wanted.pop(0)
        elif word in tasks:
            task, seen, wanted = word, {}, list(places.get(word, ()))
        else:
            raise _unknown_task(word, tasks) if task is None else _stray(word, task, tasks)
    if wanted and not HELP.intersection(words):
        raise UserError(f"{task} wants a {wanted[0].upper()}", hint=f"`./invoke --help {task}` says which")


def _by_every_name(context: ParserContext) -> Flags:
    return {name: context.flags[name] for name in (*context.flags, *context.flags.aliases)}


class _Words:
    """The words still to be read; one can be looked at before it is taken."""

    def __init__(self, words: list[str]) -> None:
        self._words = words[::-1]

    def __iter__(self) -> Iterator[str]:
        while self._words:
            yield self._words.pop()

    def next(self) -> str | None:
        """Return the next word, which stays; None at the end."""
        return self._words[-1] if self._words else None

    def take(self) -> str:
        """Return the next word and go on."""
        return self._words.pop()


def _split(words: Sequence[str], core: Flags) -> _Words:
    """Return the words up to `--`, with `--name=value` and `-nvalue` as two, and `-ab` as `-a -b`: as Invoke does."""
    found: list[str] = []
    for word in words:
        if word == "--":
            break
        if word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            found += [name, _Given(value)]
        elif word.startswith("-") and not word.startswith("--") and len(word) > 2:
            first = core.get(word[:2])
            takes = first is not None and first.takes_value
            found += [word[:2], _Given(word[2:])] if takes else [f"-{letter}" for letter in word[1:]]
        else:
            found.append(word)
    return _Words(found)


class _Given(str):
    """What stood after an `=`: a value, whatever it looks like."""

    __slots__ = ()


def _value(word: str, flag: Flag, rest: _Words, flags: set[str], tasks: Tasks) -> str | None:
    """Take the value of an option; None for a switch, or a value that may be left out and is."""
    value = rest.next()
    if not flag.takes_value:
        if isinstance(value, _Given):
            raise UserError(f"{word} takes no value, and is given {value!r}")
        return None
    there = value is not None and (isinstance(value, _Given) or value not in flags)
    if there and flag.optional and not isinstance(value, _Given) and value not in tasks and str(value)[:1] == "-":
        there = False
    if not there:
        if flag.optional:
            return None
        raise UserError(f"{word} wants a value", hint=f"`{word} VALUE` or `{word}=VALUE`")
    return rest.take()


def _require_once(word: str, value: str | None, seen: dict[str, str]) -> None:
    if value is None or word.removeprefix("--") in LISTS:
        return
    if word in seen:
        raise UserError(f"{word} is given twice: {seen[word]} and {value}", hint="it takes one value")
    seen[word] = value


def _unknown_option(word: str, task: str | None, tasks: Tasks, core: Flags) -> UserError:
    if task is None:
        hint = _near(word, list(core)) or "options of a task follow its name; `./invoke --help` has Invoke's own"
        return UserError(f"unknown option {word}", hint=hint)
    hint = _near(word, list(tasks[task])) or f"`./invoke --help {task}` has them all"
    return UserError(f"{task} has no option {word}", hint=hint)


def _unknown_task(word: str, tasks: Tasks) -> UserError:
    return UserError(f"there is no task {word!r}", hint=_near(word, list(tasks)) or f"there are {', '.join(tasks)}")


def _stray(word: str, task: str, tasks: Tasks) -> UserError:
    lists = " or ".join(name for name in tasks[task] if name.removeprefix("--") in LISTS)
    hint = _near(word, list(tasks)) or (f"a list, such as that of {lists}, has commas and no blanks" if lists else None)
    return UserError(f"{word!r} after {task} is neither an option of it nor a task", hint=hint)


def _near(word: str, known: list[str]) -> str | None:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else None
