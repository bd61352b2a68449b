"""What the probe said: one JSON object on its standard output, from a guest that may say anything."""

import json

from guestforge.check.engine import CheckFailure
from guestforge.check.exercise import Answer

OUTPUT_LIMIT = 1024 * 1024  # bytes; the listing of 1,000 names takes 30 KiB
EXCERPT_LINES = 20


def parse_answer(what: str, exit_code: int, stdout: bytes, stderr: bytes) -> Answer:
    """Return the probe's answer; raises CheckFailure, with what it printed, where it failed or printed none.

    A probe that ended well has proven nothing yet: its answer is for the host to judge.
    """
    if exit_code != 0:
        raise CheckFailure(f"`probe {what}` ended with exit code {exit_code} in the guest", _excerpt(stderr or stdout))
    if len(stdout) > OUTPUT_LIMIT:
        raise CheckFailure(f"`probe {what}` printed more than {OUTPUT_LIMIT} bytes")
    try:
        answer = json.loads(stdout)
    except (ValueError, RecursionError) as e:
        raise CheckFailure(f"`probe {what}` printed no JSON: {e}"[:200], _excerpt(stdout)) from e
    if not isinstance(answer, dict):
        raise CheckFailure(f"`probe {what}` printed no JSON object", _excerpt(stdout))
    return answer


def _excerpt(output: bytes) -> str:
    lines = output[-4096:].decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-EXCERPT_LINES:])
