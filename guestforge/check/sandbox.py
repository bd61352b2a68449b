"""Which of several storages a guest can mount: CreateSandbox takes them all at once and fails for any of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Generic, TypeVar

S = TypeVar("S")


class RefusedError(Exception):
    """The agent answered CreateSandbox with an error; the text is the agent's."""


@dataclass(frozen=True, slots=True)
class Mounted(Generic[S]):
    """What came of it: the storages that are mounted, and the agent's reason for each one that is not."""

    storages: tuple[S, ...]
    refused: Mapping[S, str]


def mount_most(storages: Sequence[S], create: Callable[[Sequence[S]], None]) -> Mounted[S]:
    """Create a sandbox with as many of the storages as the agent will mount; the usual case takes one attempt.

    A storage that is left out was refused beside exactly those that are in: that attempt came earlier, being larger.
    Its error is the reason given. Raises RefusedError when the agent refuses a sandbox without any storage.
    """
    errors: dict[frozenset[S], str] = {}
    for chosen in _from_most_to_none(storages):
        try:
            create(chosen)
        except RefusedError as e:
            if not chosen:
                raise
            errors[frozenset(chosen)] = str(e)
            continue
        return Mounted(chosen, {s: errors[frozenset(chosen) | {s}] for s in storages if s not in chosen})
    raise AssertionError("the empty choice either succeeds or raises")


def _from_most_to_none(storages: Sequence[S]) -> list[tuple[S, ...]]:
    return [chosen for size in range(len(storages), -1, -1) for chosen in combinations(storages, size)]
