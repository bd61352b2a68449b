"""Between Invoke and the library: the options that tasks take, errors to messages and exit codes, a clean end.

Only the standard library and Invoke are imported here: a start of `./invoke` pays for this module every time.
"""

import contextlib
import difflib
import functools
import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from invoke.context import Context
from invoke.tasks import Task, task

from guestforge.errors import GuestforgeError, UserError
from guestforge.signals import ENDING, heeded, interrupt_on

INTERRUPTED = 130  # what shells give for SIGINT

# What an option says of itself, and its default: False makes it a switch.
OPTIONS: dict[str, tuple[str, str | bool | None]] = {
    "accel": ("auto, kvm or tcg (default: auto)", None),
    "agent": ("a binary that takes the place of our agent", None),
    "arch": ("an architecture, a comma list, or all (default: the host's)", None),
    "artifact": ("what to boot: initrd, image, or both with a comma (default: both)", None),
    "dry-run": ("say what would be built and what the store has, and build nothing", False),
    "fail-fast": ("end everything at the first step that fails", False),
    "fast": ("lint, types and the tests that take seconds; no boots", False),
    "guest": ("a recipe of recipes/guests (default: the project's, minimal)", None),
    "jobs": ("how many compilers, programs and guests run at once (default: the processors that we may use)", None),
    "json": ("write what happens to standard output, a JSON object a line", False),
    "many": ("files of the large directory (default: 1000)", None),
    "mirror": ("a Debian mirror instead of the host's", None),
    "output": ("where artifacts go (default: the project's output/)", None),
    "project": ("a folder with a guestforge.toml (default: the one that you are in, else this checkout)", None),
    "refresh": ("ask the mirror again for the newest version of the kernel's source", False),
    "step": ("the step, such as kernel or `check initrd`", None),
    "store": ("remove the store and the compilers' caches too, not only output/", False),
    "timeout": ("seconds that one check may take before the guest counts as hung (default: 60 under TCG)", None),
    "verbose": ("show the guest's console while it runs", False),
    "virtio-fs-server": ("auto, virtiofsd or builtin (default: auto)", None),
}


POSITIONAL = frozenset({"step"})  # given without the option's name
_NONE = inspect.Parameter.empty
LISTS = frozenset({"arch", "artifact"})  # options that take a comma list, or are given several times
Given = str | bool | list[str] | None  # what Invoke makes of an option


class Chosen:
    """What a user chose, read with checks. Every reader raises UserError that names the option."""

    def __init__(self, given: Mapping[str, str | bool | None]) -> None:
        self._given = given

    def switch(self, name: str) -> bool:
        """Return whether a switch is on."""
        return bool(self._given.get(name))

    def text(self, name: str, default: str) -> str:
        """Return an option's text."""
        return str(self._given[name]) if self._given[name] is not None else default

    def path(self, name: str) -> Path | None:
        """Return an option's path, from the directory in which the user called us; None if not given."""
        return Path(str(self._given[name])).absolute() if self._given[name] is not None else None

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return an option's number, None if not given."""
        if self._given[name] is None:
            return None
        try:
            value = float(str(self._given[name]))
        except ValueError:
            value = float("nan")
        if not low <= value <= high:  # nan is never between
            raise UserError(f"--{name} {self._given[name]}: not a number from {low:g} to {high:g}")
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        """Return an option's whole number, None if not given."""
        value = self.number(name, low, high)
        if value is not None and value != int(value):
            raise UserError(f"--{name} {self._given[name]}: not a whole number")
        return None if value is None else int(value)

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of the choices; the first is the default."""
        return _known(name, self.text(name, choices[0]), choices)

    def some_of(self, name: str, choices: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of the choices that a comma list names; all by default."""
        words = self.text(name, ",".join(choices)).split(",")
        return tuple(dict.fromkeys(_known(name, word.strip(), choices) for word in words))


def _known(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"did you mean {near[0]}?" if near else None
        given = name.upper() if name in POSITIONAL else f"--{name}"
        raise UserError(f"{given} {value}: it takes {', '.join(choices)}", hint=hint)
    return value


def job(*names: str) -> Callable[[Callable[[Chosen], int | None]], Task[Any]]:
    """Make a task of a function that takes what the user chose of these options and may return an exit code."""

    def decorate(function: Callable[[Chosen], int | None]) -> Task[Any]:
        @functools.wraps(function)
        def body(_context: Context, **given: Given) -> None:
            chosen = Chosen({name.replace("_", "-"): _value(given[name]) for name in given})
            with _shown(chosen):
                code = _guarded(lambda: function(chosen))
            if code:
                raise SystemExit(code)

        body.__signature__ = _signature(names)  # type: ignore[attr-defined]
        helps = {name: OPTIONS[name][0] for name in names}
        return cast("Task[Any]", task(body, help=helps, auto_shortflags=False, iterable=LISTS.intersection(names)))

    return decorate


@contextlib.contextmanager
def _shown(chosen: Chosen) -> Iterator[None]:
    """Have events written as JSON lines, where that is asked for."""
    if not chosen.switch("json"):
        yield
        return
    from guestforge.events import shown_by
    from guestforge.render import JsonLines

    with shown_by(JsonLines(sys.stdout)):
        yield


def _value(value: Given) -> str | bool | None:
    """Return an option's value; Invoke gathers those of a list that is given piece by piece."""
    return (",".join(value) if value else None) if isinstance(value, list) else value


def _signature(names: tuple[str, ...]) -> inspect.Signature:
    """Return the signature from which Invoke learns a task's options."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    defaults = {name: _NONE if name in POSITIONAL else OPTIONS[name][1] for name in names}
    options = [inspect.Parameter(name.replace("-", "_"), kind, default=value) for name, value in defaults.items()]
    return inspect.Signature([inspect.Parameter("context", kind), *options])


def _guarded(function: Callable[[], int | None]) -> int | None:
    """Run a task's body; an error or a signal becomes a message and an exit code, without a traceback."""
    interrupt_on(heeded())
    try:
        return function()
    except GuestforgeError as error:
        from guestforge.progress import complain

        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # nothing is left to be ended but Python itself
        print("interrupted; what was done is kept, and the next run goes on from there", file=sys.stderr)
        return INTERRUPTED
