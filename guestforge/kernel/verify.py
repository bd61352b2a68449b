"""Compares what fragments asked for with what Kconfig made of it.

Kconfig silently drops options whose dependencies are not met.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from guestforge.core.errors import BuildError
from guestforge.kernel.dotconfig import NOT_SET, Config, same_value
from guestforge.kernel.fragment import Request
from guestforge.kernel.kconfig import explain


@dataclass(frozen=True, slots=True)
class Dropped:
    """A request that the final configuration does not have; `got` is the value there, `n` if it is not set."""

    request: Request
    got: str


def dropped(requests: Iterable[Request], config: Config) -> list[Dropped]:
    """Return the requests that a final configuration does not fulfil."""
    pairs = ((request, config.get(request.option, NOT_SET)) for request in requests)
    return [Dropped(request, got) for request, got in pairs if not same_value(request.value, got)]


def verify(requests: Iterable[Request], config: Config, tree: Path, kernel_arch: str) -> None:
    """Raise BuildError unless a final configuration has every requested option with its value.

    The error names each with the value wanted, the value got, the fragment's line, and what Kconfig wants for it.
    """
    missing = dropped(requests, config)
    if not missing:
        return
    options = [row.request.option.removeprefix("CONFIG_") for row in missing]
    reasons = explain(tree, kernel_arch, options, config)
    lines = []
    for row, option in zip(missing, options, strict=True):
        lines.append(f"{row.request.place}: {row.request.option}: wanted {row.request.value}, got {row.got}")
        lines += [f"    {reason}" for reason in reasons[option]]
    names = ", ".join(row.request.option for row in missing[:5]) + (", ..." if len(missing) > 5 else "")
    raise BuildError(
        f"the kernel's configuration has not what the fragments ask for: {names}",
        excerpt="\n".join(lines),
        hint="add what it depends on to a fragment, or take the line out of the fragment",
    )
