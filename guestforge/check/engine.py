"""Runs a table of checks over one guest and keeps what became of each. Knows neither guests nor what is checked."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from guestforge.check.report import CheckResult, Status
from guestforge.core.errors import CheckError

Context = TypeVar("Context")


class CheckFailure(CheckError):
    """A check's proof failed: what is wrong in one line, and the lines that show it."""

    def __init__(self, message: str, excerpt: str | None = None) -> None:
        super().__init__(message, excerpt=excerpt)

    @property
    def detail(self) -> str:
        """The detail of a check's result."""
        return f"{self.message}\n{self.excerpt or ''}".strip("\n")


class RunEnded(CheckFailure):
    """The guest or a host program behind it is gone or beyond use: no later check can run. `kind` says of what."""

    def __init__(self, kind: str, message: str, excerpt: str | None = None) -> None:
        super().__init__(message, excerpt)
        self.kind = kind


class NotAskedError(Exception):
    """A check does not concern this guest; the text says why. It is skipped, and the verdict goes without it."""


@dataclass(frozen=True, slots=True)
class Check(Generic[Context]):
    """A row of the table of checks.

    `run` proves something on the running guest, `settle` once it is off; each returns its evidence in one line or
    raises CheckFailure. A check with both passes when both have. A check whose `needs` have not passed is skipped;
    `settle_needs` are those of `settle`. `served_by` names the host program behind the device, `excuse` says why the
    check is not asked of this guest; both are known beforehand.
    """

    name: str
    run: Callable[[Context], str] | None = None
    settle: Callable[[Context], str] | None = None
    needs: tuple[str, ...] = ()
    settle_needs: tuple[str, ...] = ()
    served_by: Callable[[Context], str | None] = lambda _: None
    excuse: Callable[[Context], str | None] = lambda _: None


class Run(Generic[Context]):
    """One run of a table of checks. `blame` maps a kind of RunEnded to the check that it speaks against."""

    def __init__(
        self,
        checks: Sequence[Check[Context]],
        context: Context,
        blame: Mapping[str, str],
        on_done: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._checks = checks
        self._context = context
        self._blame = blame
        self._on_done = on_done
        self._ended: str | None = None
        self._results: dict[str, CheckResult] = {}

    @property
    def results(self) -> tuple[CheckResult, ...]:
        """The result of every check, in the order of the table."""
        return tuple(self._results.get(check.name) or self._skipped(check) for check in self._checks)

    def on_guest(self) -> None:
        """Do what needs the running guest. Stops at the first check that ends the run."""
        for check in self._checks:
            if check.run is not None and check.name not in self._results:
                self._do(check, check.run, check.needs)

    def on_remains(self) -> None:
        """Do what is done once the guest is off."""
        for check in self._checks:
            if check.settle is not None and self._may_settle(check):
                self._do(check, check.settle, check.settle_needs)

    def end(self, ended: RunEnded) -> None:
        """Take in that the run has ended by something that no check met."""
        running = next((check.name for check in self._checks if check.name not in self._results), self._checks[-1].name)
        self._blame_for(ended, running, 0.0)

    def _may_settle(self, check: Check[Context]) -> bool:
        return self._passed(check.name) if check.run is not None else check.name not in self._results

    def _do(self, check: Check[Context], prove: Callable[[Context], str], needs: tuple[str, ...]) -> None:
        excuse = None if self._ended else check.excuse(self._context)
        if reason := excuse or self._reason_to_skip(needs):
            self._put(check, "skip", 0.0, reason, excused=excuse is not None)
            return
        start = time.monotonic()
        try:
            evidence = prove(self._context)
        except RunEnded as e:
            self._blame_for(e, check.name, time.monotonic() - start)
        except CheckFailure as e:
            self._put(check, "fail", time.monotonic() - start, e.detail)
        except NotAskedError as e:
            self._put(check, "skip", 0.0, str(e), excused=True)
        else:
            self._put(check, "pass", time.monotonic() - start, evidence)

    def _reason_to_skip(self, needs: tuple[str, ...]) -> str | None:
        if self._ended:
            return f"the run was ended by {self._ended}"
        missing = [name for name in needs if not self._passed(name)]
        return f"{', '.join(missing)} did not pass" if missing else None

    def _passed(self, name: str) -> bool:
        return name in self._results and self._results[name].status == "pass"

    def _blame_for(self, ended: RunEnded, running: str, seconds: float) -> None:
        """Fail the check that the end speaks against, and skip the one that it struck if that is another."""
        by_name = {check.name: check for check in self._checks}
        blamed = self._blame.get(ended.kind, running)
        self._ended = f"{ended.kind}: {ended.message}"
        if blamed != running:
            self._put(by_name[running], "skip", seconds, f"the run was ended by {self._ended}")
        self._results.pop(blamed, None)  # what it proved before does not count any more
        self._put(by_name[blamed], "fail", seconds, ended.detail)

    def _put(
        self, check: Check[Context], status: Status, seconds: float, detail: str, *, excused: bool = False
    ) -> None:
        """Keep a result; the second part of a check adds its time and its evidence to the first."""
        seconds = round(seconds, 3)
        before = self._results.get(check.name)
        if before is None:
            self._on_done(check.name)
            served_by = check.served_by(self._context)
            self._results[check.name] = CheckResult(check.name, status, seconds, detail, served_by, excused)
            return
        if status == before.status == "pass":
            detail = f"{before.detail}; {detail}"
        self._results[check.name] = replace(before, status=status, seconds=before.seconds + seconds, detail=detail)

    def _skipped(self, check: Check[Context]) -> CheckResult:
        reason = self._reason_to_skip(()) or "the run did not come to it"
        return CheckResult(check.name, "skip", 0.0, reason, check.served_by(self._context))
