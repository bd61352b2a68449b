"""A talk with the probe: a JSON line for each step, answered by one, from a guest that may say anything."""

import json
from collections.abc import Callable, Sequence
from typing import Final

from guestforge.agent.container import Result as Ran
from guestforge.agent.errors import printable
from guestforge.check.engine import CheckFailure
from guestforge.check.exercise import Answer

PROBE: Final = ("/probe", "serve")  # in a container's root, see fixtures.container_tree
OUTPUT_LIMIT: Final = 1024 * 1024  # bytes of an answer; the listing of 1,000 names takes 30 KiB
EXCERPT_LINES: Final = 20


class ProbeTalk:
    """Asks the probe, one step after the other; raises CheckFailure for what is no answer to the step asked for.

    `ask` says a line and returns the next one, None where there is none; `end` waits for the probe's end.
    """

    def __init__(self, ask: Callable[[bytes], bytes | None], end: Callable[[], Ran]) -> None:
        self._ask = ask
        self._end = end
        self._asked = 0

    def __call__(self, args: Sequence[str]) -> Answer:
        """Have the probe do a step; return its answer, which is for the host to judge."""
        self._asked += 1
        what = " ".join(args)
        line = self._ask(json.dumps({"id": self._asked, "args": list(args)}).encode())
        if line is None:
            raise self._died(what)
        answer = parse_answer(what, line)
        number = answer.get("id")
        if isinstance(number, bool) or number != self._asked:
            said = printable(repr(number))[:40]
            raise CheckFailure(f"`probe {what}` was step {self._asked}, and what was answered is step {said}")
        if answer.get("ok") is not True:
            raise CheckFailure(f"`probe {what}` failed in the guest", printable(str(answer.get("error")))[:2048])
        return answer

    def end(self) -> None:
        """Have the probe end; it must have said no more than it was asked."""
        ran = self._end()
        if ran.stdout:
            raise CheckFailure(f"the probe said more than its {self._asked} answers", _excerpt(ran.stdout))
        if ran.status != 0:
            raise CheckFailure(f"the probe ended with exit code {ran.status} in the guest", _excerpt(ran.stderr))

    def _died(self, what: str) -> CheckFailure:
        ran = self._end()
        said = _excerpt(ran.stderr or ran.stdout)
        return CheckFailure(f"`probe {what}` ended with exit code {ran.status} in the guest, without an answer", said)


def parse_answer(what: str, line: bytes) -> Answer:
    """Return the JSON object of an answer; raises CheckFailure, with what was printed, where it is none."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise CheckFailure(f"`probe {what}` printed no JSON: {e}"[:200], _excerpt(line)) from e
    if not isinstance(answer, dict):
        raise CheckFailure(f"`probe {what}` printed no JSON object", _excerpt(line))
    return answer


def _excerpt(output: bytes) -> str:
    lines = output[-4096:].decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-EXCERPT_LINES:])
