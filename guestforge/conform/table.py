"""The results of all storages side by side, as JSON and as people read them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from guestforge.conform.results import Result, Results, Status

SCHEMA: Final = 1
REFERENCE: Final = "virtio-blk"  # ext4, which is what the others are held against
MARKS: Final[dict[Status, str]] = {"pass": "pass", "fail": "FAIL", "unsupported": "-"}
ABSENT: Final = Result("fail", "the case was not run")


@dataclass(frozen=True, slots=True)
class Conformance:
    """What one machine's storages keep of the promises, and who served them."""

    arch: str
    guest: str
    accelerator: str
    servers: Mapping[str, str]  # by storage
    results: Mapping[str, Results]  # by storage, then by case

    def differences(self, storage: str) -> dict[str, Result]:
        """Return the cases whose outcome on a storage is not the reference's."""
        reference = self.results[REFERENCE]
        return {
            name: own
            for name in reference
            if (own := self.results[storage].get(name, ABSENT)).status != reference[name].status
        }

    def to_json(self) -> dict[str, Any]:
        """Return the values of conform.json."""
        return {"schema": SCHEMA, **asdict(self)}


def table(conformance: Conformance) -> str:
    """Return the table of the cases that do not pass everywhere, after a line for each storage with its counts."""
    storages = list(conformance.results)
    lines = [_counts(conformance, storage) for storage in storages]
    rows = [(name, *(_mark(conformance, storage, name) for storage in storages)) for name in _cases(conformance)]
    rows = [row for row in rows if set(row[1:]) != {MARKS["pass"]}]
    if rows:
        head = ("case", *storages)
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines += ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                        for row in (head, *rows))]  # fmt: skip
    details = [
        f"{storage}: {name}: {result.detail}"
        for storage in storages
        for name, result in conformance.results[storage].items()
        if result.status == "fail"
    ]
    return "\n".join([*lines, *(["", *details] if details else [])])


def _cases(conformance: Conformance) -> list[str]:
    return list(dict.fromkeys(name for results in conformance.results.values() for name in results))


def _mark(conformance: Conformance, storage: str, name: str) -> str:
    return MARKS[conformance.results[storage].get(name, ABSENT).status]


def _counts(conformance: Conformance, storage: str) -> str:
    statuses = [result.status for result in conformance.results[storage].values()]
    counted = ", ".join(f"{statuses.count(status)} {status}" for status in MARKS)
    return f"{conformance.arch} {storage} ({conformance.servers[storage]}): {len(statuses)} cases: {counted}"
