"""Between Invoke and the library: tasks of functions that take records of options, errors to exit codes, a clean end.

Only the standard library and Invoke are imported here: a start of `./invoke` pays for this module every time.
"""

import contextlib
import functools
import inspect
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from invoke.context import Context
from invoke.tasks import Task, task

from guestforge.core.errors import GuestforgeError
from guestforge.core.events import Event, Sink, shown_by
from guestforge.core.signals import ENDING, end, heeded, interrupt_on
from guestforge.project.option import Given, Option, options_of, read

INTERRUPTED = 130  # what shells give for SIGINT
HERE = "host"  # where a task runs if nobody says otherwise
UNREAD = 141  # and for SIGPIPE
CI_SYSTEMS = {"GITHUB_ACTIONS", "GITLAB_CI"}  # what is set where one runs us
OUTPUT = (1, 2)  # the descriptors of what a user reads

Body = Callable[..., int | None]


def job(*, without: tuple[str, ...] = ()) -> Callable[[Body], Task[Any]]:
    """Make a task of a function that takes records of options and may return an exit code.

    `without` are the options of these records that the task does not have.
    """

    def decorate(function: Body) -> Task[Any]:
        records = {name: parameter.annotation for name, parameter in inspect.signature(function).parameters.items()}
        declared = {
            option.name: option
            for record in records.values()
            for option in options_of(record).values()
            if option.name not in without
        }

        @functools.wraps(function)
        def body(context: Context, **typed: str | bool | list[str] | None) -> None:
            given = {name: _value(declared[name], value) for name, value in _by_name(typed)}
            given |= {name: _rest(context) for name, option in declared.items() if option.rest}
            with _shown(given):
                code = _read(lambda: _run(function, {name: read(each, given) for name, each in records.items()}, given))
            if code:
                raise SystemExit(code)

        body.__signature__ = _signature(declared.values())  # type: ignore[attr-defined]
        helps = {name: option.help for name, option in declared.items() if not option.rest}
        lists = [name for name, option in declared.items() if option.many or option.each]
        return cast("Task[Any]", task(body, help=helps, auto_shortflags=False, iterable=lists))

    return decorate


def _run(function: Body, records: Mapping[str, Any], given: Mapping[str, Given]) -> int | None:
    """Run a task's body here, or have it run where the user says."""
    if all(getattr(record, "runtime", HERE) == HERE for record in records.values()):
        return function(**records)
    from guestforge.cli.elsewhere import run_elsewhere

    return run_elsewhere(function.__name__, tuple(records.values()), given)


@contextlib.contextmanager
def _shown(given: Mapping[str, Given]) -> Iterator[None]:
    """Have events shown to a person or, where that is asked for, written as JSON lines."""
    with shown_by(_Later(_json_lines if given.get("json") else _standard)):
        yield


class _Later:
    """A renderer that is made, and imported, when there is something to show."""

    def __init__(self, make: Callable[[], Sink]) -> None:
        self._make = make
        self._made: Sink | None = None

    def __call__(self, event: Event) -> None:
        self._made = self._made or self._make()
        try:
            self._made(event)
        except BrokenPipeError:
            self._made = _to_nobody
            end()


def _to_nobody(_: Event) -> None:
    """Show an event to nobody, after whoever read them is gone: what was asked for ends."""


def _json_lines() -> Sink:
    from guestforge.cli.render import JsonLines

    return JsonLines(sys.stdout)


def _standard() -> Sink:
    if os.environ.keys() & CI_SYSTEMS:
        from guestforge.cli.ci_log import in_ci

        if found := in_ci(os.environ):
            return found
    from guestforge.cli.render import standard

    return standard()


def _by_name(typed: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name.replace("_", "-"), value) for name, value in typed.items())


def _value(option: Option, value: str | bool | list[str] | None) -> Given:
    """Return what was given; Invoke gathers an option that takes a list, or is given several times, piece by piece."""
    if not isinstance(value, list):
        return value
    if option.each:
        return tuple(value)
    return ",".join(value) if value else None


def _rest(context: Context) -> tuple[str, ...]:
    """Return the words after `--`. Invoke's own are one text, from which nobody can tell where a word ends."""
    words = sys.argv[1:]
    return tuple(words[words.index("--") + 1 :]) if context.remainder and "--" in words else ()


def _signature(declared: Iterable[Option]) -> inspect.Signature:
    """Return the signature from which Invoke learns a task's options."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("context", kind)]
    named = (option for option in declared if not option.rest)
    for option in sorted(named, key=lambda option: not option.place):  # what must be given comes first
        default = inspect.Parameter.empty if option.place else None if option.read else False
        parameters.append(inspect.Parameter(option.name.replace("-", "_"), kind, default=default))
    return inspect.Signature(parameters)


def _read(function: Callable[[], int | None]) -> int | None:
    """Run a task's body, guarded. One whose output nobody reads any more ends early and without a word."""
    try:
        code = _guarded(function)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _unread():
            raise
        return UNREAD
    return code


def _unread() -> bool:
    """Whether our output is a pipe that nobody reads. To such a one nothing is written, as Python would at its end."""
    poll = select.poll()
    for descriptor in OUTPUT:
        poll.register(descriptor, 0)
    closed = [descriptor for descriptor, state in poll.poll(0) if state & (select.POLLERR | select.POLLHUP)]
    for descriptor in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return bool(closed)


def _guarded(function: Callable[[], int | None]) -> int | None:
    """Run a task's body; an error or a signal becomes a message and an exit code, without a traceback."""
    interrupt_on(heeded())
    try:
        return function()
    except GuestforgeError as error:
        from guestforge.core.progress import complain

        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # nothing is left to be ended but Python itself
        if _unread():
            return UNREAD
        print("interrupted; what was done is kept, and the next run goes on from there", file=sys.stderr)
        return INTERRUPTED
