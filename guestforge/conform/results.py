"""What the conform program said of its cases: JSON lines from a guest that may say anything."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from guestforge.agent.errors import printable
from guestforge.check.engine import CheckFailure

Status = Literal["pass", "fail", "unsupported"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

OUTPUT_LIMIT = 1024 * 1024  # bytes; the 81 cases take 8 KiB when all pass
NAME_LIMIT = 64  # characters


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case on a storage. `detail` is the guest's word, on one line and printable."""

    status: Status
    detail: str = ""


Results = Mapping[str, Result]


def parse_results(stdout: bytes) -> Results:
    """Return the results by the names of their cases, in the program's order.

    Raises CheckFailure unless the program came to its end and every line is one of its own.
    """
    if len(stdout) > OUTPUT_LIMIT:
        raise CheckFailure(f"conform printed more than {OUTPUT_LIMIT} bytes")
    lines = [_object(line) for line in stdout.splitlines()]
    if not lines or "done" not in lines[-1]:
        raise CheckFailure("conform did not come to its end", _tail(stdout))
    results = dict(_result(line) for line in lines[:-1])
    if not results or len(results) != lines[-1]["done"]:
        raise CheckFailure(f"conform told of {len(results)} cases and says that it has {lines[-1]['done']!r}"[:200])
    return results


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise CheckFailure("conform printed a line that is no JSON", _tail(line)) from e
    if not isinstance(value, dict):
        raise CheckFailure("conform printed a line that is no JSON object", _tail(line))
    return value


def _result(line: Mapping[str, Any]) -> tuple[str, Result]:
    name, status, detail = line.get("name"), line.get("status"), line.get("detail", "")
    if not (isinstance(name, str) and 0 < len(name) <= NAME_LIMIT and isinstance(detail, str)):
        raise CheckFailure("conform printed a result without a name", printable(str(line)))
    for known in STATUSES:
        if status == known:
            return printable(name), Result(known, printable(detail))
    raise CheckFailure(f"conform says of {printable(name)} that it is {printable(str(status))}")


def _tail(output: bytes) -> str:
    return "\n".join(printable(line) for line in output[-2048:].decode("utf-8", "replace").splitlines()[-10:])
