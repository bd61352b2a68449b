"""Reading the agent's metrics: Prometheus' text format, of which a guest's may have any size and content.

https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md describes the format.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from guestforge.agent.errors import ProtocolError, printable

MAX_SAMPLES = 50_000
MAX_LINE = 4096  # characters
# A family of /proc/meminfo's entries by the label `item`; in bytes, unlike the file: the procfs library that
# kata-agents read it with converts (https://github.com/eminence/procfs).
MEMINFO = "kata_guest_meminfo"
# Our agent's: free pages that the kernel keeps in the processors' own lists and counts as used, in bytes.
PERCPU_FREE = "guestforge_guest_percpu_free"

# Our agent's: what each container has and none may leave behind, counted, by the label `item`.
HELD = "guestforge_guest_held"

# Possessive throughout: a guest must not be able to make the matching go back and forth over a long line.
_LABEL = re.compile(r'\s*+([a-zA-Z_][a-zA-Z0-9_]*+)\s*+=\s*+"((?:[^"\\]++|\\.)*+)"\s*+(?:,|$)', re.ASCII)
_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*+)\s*+"
    r'(?:\{((?:[^"}]++|"(?:[^"\\]++|\\.)*+")*+)\})?+\s*+'
    r"([+-]?+(?:(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+|Inf|NaN))(?:\s++-?+[0-9]++)?+",
    re.ASCII,
)
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One number: a metric's name, its labels, its value. What a name stands for is said in the agent's HELP lines."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class GuestMemory:
    """The guest's memory by its own /proc/meminfo, in KiB; `percpu_free_kib` is 0 where the agent does not tell it."""

    total_kib: int
    available_kib: int
    percpu_free_kib: int = 0

    @property
    def used_kib(self) -> int:
        """What is not available to a program that starts now."""
        return self.total_kib - self.available_kib - self.percpu_free_kib


def parse_metrics(text: str) -> list[Sample]:
    """Return the samples of a text. Raises ProtocolError for one that is not in the format, or too long."""
    samples: list[Sample] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) > MAX_LINE or len(samples) == MAX_SAMPLES:
            raise ProtocolError(f"the guest's metrics are too long: line {number}")
        samples.append(_sample(number, line.strip()))
    return samples


def guest_memory(samples: Iterable[Sample]) -> GuestMemory:
    """Return the guest's memory. Raises ProtocolError where the samples do not tell it, or not sensibly."""
    samples = list(samples)
    items = {sample.labels.get("item"): sample.value for sample in samples if sample.name == MEMINFO}
    listed = sum(sample.value for sample in samples if sample.name == PERCPU_FREE)
    total, available = items.get("mem_total", math.nan), items.get("mem_available", math.nan)
    if not (0 <= available <= total < math.inf and 0 <= listed <= total - available):
        raise ProtocolError(f"the guest's metrics have no sensible {MEMINFO}: total {total:g}, available {available:g}")
    return GuestMemory(int(total) // 1024, int(available) // 1024, int(listed) // 1024)


def held(samples: Iterable[Sample]) -> Mapping[str, int]:
    """Return how much the guest has of what can be left behind: mounts, cgroups, processes, files and the like."""
    return {
        printable(sample.labels.get("item", "")): int(sample.value)
        for sample in samples
        if sample.name == HELD and math.isfinite(sample.value)
    }


def _sample(number: int, line: str) -> Sample:
    match = _SAMPLE.fullmatch(line)
    labels = _labels(match[2] or "") if match else None
    if match is None or labels is None:
        raise ProtocolError(f"line {number} of the guest's metrics is no sample: {printable(line[:100])}")
    return Sample(match[1], labels, float(match[3]))


def _labels(text: str) -> dict[str, str] | None:
    """Return the labels between the braces, None if they are none."""
    labels, position = {}, 0
    while position < len(text.rstrip()):
        match = _LABEL.match(text, position)
        if match is None:
            return None
        labels[match[1]] = re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), match[2])
        position = match.end()
    return labels
