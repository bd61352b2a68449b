"""Between Invoke and the library: the options that tasks take, errors to messages and exit codes, a clean end.

Only the standard library and Invoke are imported here: a start of `./invoke` pays for this module every time.
"""

import difflib
import functools
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from invoke.context import Context
from invoke.tasks import Task, task

from guestforge.errors import GuestforgeError, UserError
from guestforge.signals import ENDING, heeded

INTERRUPTED = 130  # what shells give for SIGINT
AGAIN = 0.01  # seconds from an interruption that Python has dropped to the next
PATIENCE = 10.0  # seconds that an end may take: programs have a few to end by themselves

# What an option says of itself, and its default: False makes it a switch.
OPTIONS: dict[str, tuple[str, str | bool | None]] = {
    "accel": ("auto, kvm or tcg (default: auto)", None),
    "agent": ("a binary that takes the place of our agent", None),
    "arch": ("an architecture, a comma list, or all (default: the host's)", None),
    "artifact": ("what to boot: initrd, image, or both with a comma (default: both)", None),
    "dry-run": ("say what would be built and what the store has, and build nothing", False),
    "fast": ("lint, types and the tests that take seconds; no boots", False),
    "guest": ("a recipe of recipes/guests (default: minimal)", None),
    "jobs": ("how many compilers run at once (default: the processors that we may use)", None),
    "many": ("files of the large directory (default: 1000)", None),
    "mirror": ("a Debian mirror instead of the host's", None),
    "output": ("where artifacts go (default: output/)", None),
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
            code = _guarded(lambda: function(Chosen({name.replace("_", "-"): _value(given[name]) for name in given})))
            if code:
                raise SystemExit(code)

        body.__signature__ = _signature(names)  # type: ignore[attr-defined]
        helps = {name: OPTIONS[name][0] for name in names}
        return cast("Task[Any]", task(body, help=helps, auto_shortflags=False, iterable=LISTS.intersection(names)))

    return decorate


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
    for number in heeded():
        signal.signal(number, _interrupt)
    sys.unraisablehook = _interrupt.dropped
    try:
        return function()
    except GuestforgeError as error:
        print(error.report(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # nothing is left to be ended but Python itself
        print("interrupted; what was done is kept, and the next run goes on from there", file=sys.stderr)
        return INTERRUPTED


class _Interrupted:
    """Ends the task as Ctrl-C does, so that every `with` block is left and nothing stays behind.

    A second signal that comes while they are left would break that off: it is no news, unless the end takes too long.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._number = int(signal.SIGINT)

    def __call__(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._first is None or now - self._first > PATIENCE:
            self._first, self._number = now, number
            raise KeyboardInterrupt

    def dropped(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Interrupt once more, in a moment, where Python has dropped the exception.

        It does so with one that is raised in a finalizer, or in a function that a module has registered to be called
        at each fork(2), as logging does: the signal came while such a function ran.
        """
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._first = None
            threading.Timer(AGAIN, os.kill, (os.getpid(), self._number)).start()
        else:
            sys.__unraisablehook__(unraisable)


_interrupt = _Interrupted()
