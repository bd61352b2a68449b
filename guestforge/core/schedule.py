"""Makes steps side by side: each as soon as what it uses is there and there is room for it, in a process of its own.

There is room where there is memory for its programs and, for a step that computes or runs a guest, a token of the
jobserver's. What cannot be made leaves out what uses it, and nothing else.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

from guestforge.core import events
from guestforge.core.errors import BuildError, GuestforgeError
from guestforge.core.events import Began, Ended
from guestforge.core.graph import Evaluation, walk
from guestforge.core.jobserver import Jobserver
from guestforge.core.procfs import fields
from guestforge.core.progress import complain
from guestforge.core.signals import awaited, held
from guestforge.core.step import NotKeptError, Step
from guestforge.core.worker import Raised, Returned, Worker, end

MEMORY: Final = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Goal:
    """Steps to be made, and what is done here as soon as all of them have been; it may raise GuestforgeError.

    `then` is told whether all of them were found in the store.
    """

    title: str
    steps: tuple[Step, ...]
    then: Callable[[bool], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Rules:
    """How steps are made: `again` names those that are made though the store has them; `fail_fast` ends all at once."""

    jobs: Jobserver
    again: frozenset[Step] = frozenset()
    fail_fast: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    worker: Worker
    step: Step
    token: bool  # taken from the jobserver
    began: float


class Schedule:
    """One run over the steps of some goals. `ended` says what became of each of them, `errors` what went wrong."""

    def __init__(self, evaluation: Evaluation, goals: Sequence[Goal], rules: Rules) -> None:
        self.ended: dict[Step | Goal, Ended] = {}
        self.errors: list[GuestforgeError] = []
        self._evaluation = evaluation
        self._goals = goals
        self._rules = rules
        self._steps = tuple(dict.fromkeys(step for goal in goals for target in goal.steps for step in walk(target)))
        self._absent: set[Step] = set()  # what the store was found not to have, or not to do
        self._running: list[_Running] = []
        self._memory = available_mib()
        self._own_token = True  # the one that whoever starts the first program has
        self._lacks_token = False

    def run(self) -> None:
        """Make all that can be made, and tell what became of it. Raises KeyboardInterrupt, with nothing running on."""
        try:
            self._advance()
            while self._running:
                self._hear()
                self._advance()
        finally:
            end([running.worker for running in self._running])
        of_goals = [self.ended[goal] for goal in self._goals if self.ended[goal].state == "failed"]
        events.send(events.Finished((*(self.ended[step] for step in self._steps), *of_goals)))

    def made(self, goal: Goal) -> bool:
        """Whether all of a goal is there."""
        return goal in self.ended and not _lost(self.ended[goal])

    # what to do next

    def _advance(self) -> None:
        """Settle and start what can be. Steps come after all that they use, so that once through is enough."""
        self._lacks_token = False
        for step in self._steps:
            if step not in self.ended and not self._is_running(step):
                self._consider(step)
        for goal in self._goals:
            if goal not in self.ended and all(step in self.ended for step in goal.steps):
                self._reach(goal)

    def _consider(self, step: Step) -> None:
        used = [self.ended.get(use.step) for use in step.uses.values()]
        if any(map(_lost, used)):
            self._skip(step, self._why_not(step))
        elif self._stopped:
            self._skip(step, f"stopped: {self.errors[0].message}")
        elif None not in used and self._must_make(step):
            self._start(step)

    def _must_make(self, step: Step) -> bool:
        """Whether a step is to be made. One whose entry is found, and one that can't be looked for, ends here."""
        if step in self._absent:
            return True
        try:
            found = self._evaluation.find(step)
        except GuestforgeError as e:
            self._fail(step, e)
            return False
        if found and step not in self._rules.again:
            self._end(step, Ended(step.title, "reused"))
            return False
        self._absent.add(step)
        return True

    def _start(self, step: Step) -> None:
        if self._running and sum(each.step.memory_mib for each in self._running) + step.memory_mib > self._memory:
            return
        computes = step.weight != "network"
        token = False
        if computes and self._own_token:
            self._own_token = False
        elif computes:
            token = self._rules.jobs.take()
            if not token:
                self._lacks_token = True
                return
        make = self._evaluation.remade if step in self._rules.again else self._evaluation.entry
        events.send(Began(step.title))
        with held():  # until it is where it will be ended
            self._running.append(_Running(Worker(partial(make, step)), step, token, time.monotonic()))

    def _reach(self, goal: Goal) -> None:
        missing = [step for step in goal.steps if _lost(self.ended[step])]
        if missing:
            self.ended[goal] = Ended(goal.title, "skipped", why=f"without {', '.join(step.title for step in missing)}")
            return
        reused = all(self.ended[step].state == "reused" for step in goal.steps)
        self.ended[goal] = Ended(goal.title, "reused" if reused else "built")
        try:
            goal.then(reused)
        except GuestforgeError as e:
            self._fail(goal, e)

    # what has happened

    def _hear(self) -> None:
        """Wait until something happens: a worker tells something, or a token is free that was lacking."""
        tokens = [self._rules.jobs.waiting] if self._lacks_token else []
        sources = [*(each.worker.fileno() for each in self._running), *tokens]
        ready = awaited(lambda seconds: wait(sources, seconds))
        for running in [each for each in self._running if each.worker.fileno() in ready]:
            if running not in self._running:
                continue  # ended meanwhile, for the failure of another
            message = running.worker.receive()
            if isinstance(message, Returned | Raised):
                self._running.remove(running)
                self._give_back(running)
                self._take_in(running, message)
            else:
                events.send(message)

    def _give_back(self, running: _Running) -> None:
        if running.token:
            self._rules.jobs.give()
        elif running.step.weight != "network":
            self._own_token = True
        if not self._running:
            self._rules.jobs.restore()

    def _take_in(self, running: _Running, message: Returned | Raised) -> None:
        step, seconds = running.step, time.monotonic() - running.began
        error = message.error if isinstance(message, Raised) else None
        if isinstance(error, GuestforgeError):
            self._fail(step, error, seconds)
        elif isinstance(error, NotKeptError):
            self._end(step, Ended(step.title, step.success, seconds, str(error)))
        elif error is not None:
            raise error
        elif self._evaluation.find(step) is None:
            self._fail(step, BuildError(f"{step.title}: the store does not have what was just put there"), seconds)
        else:
            self._end(step, Ended(step.title, step.success, seconds))

    def _fail(self, what: Step | Goal, error: GuestforgeError, seconds: float = 0.0) -> None:
        complain(error, what.title)
        self.errors.append(error)
        self._end(what, Ended(what.title, "failed", seconds, error.message))
        if self._stopped:
            end([running.worker for running in self._running])
            for running in self._running:
                self._skip(running.step, f"stopped: {error.message}")
            self._running.clear()

    def _skip(self, step: Step, why: str) -> None:
        self._end(step, Ended(step.title, "skipped", why=why))

    def _end(self, what: Step | Goal, ended: Ended) -> None:
        self.ended[what] = ended
        events.send(ended)

    @property
    def _stopped(self) -> bool:
        return self._rules.fail_fast and bool(self.errors)

    def _is_running(self, step: Step) -> bool:
        return any(each.step is step for each in self._running)

    def _why_not(self, step: Step) -> str:
        """Return which steps before one have failed."""
        failed = [each.title for each in walk(step) if each in self.ended and self.ended[each].state == "failed"]
        return f"without {', '.join(failed)}" if failed else "what it uses was skipped"


def available_mib() -> int:
    """Return how much memory programs may have without any going to swap, in MiB."""
    return int(fields(MEMORY)["MemAvailable"].split()[0]) // 1024


def _lost(ended: Ended | None) -> bool:
    """Whether something has ended without what it is for."""
    return ended is not None and ended.state in {"failed", "skipped"}
