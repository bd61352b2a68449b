"""A step of a build, as a value: what it makes, from what, and by which code. Nothing of it has run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from guestforge.core.need import Need
from guestforge.core.runtime import Runtime
from guestforge.core.store import Entry, Inputs

Weight = Literal["cpu", "network", "guest"]  # a step computes, waits for others, or runs a guest
Used = Mapping[str, Entry]  # the entries of the steps that a step uses, by its own names for them


class NotKeptError(Exception):
    """A step has done its work, but what it made is not to be kept; the text says why."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a step reads of another's entry: these of the files at its top, or all that is in it where none is named.

    The files count by their content. Where none is named the entry's key counts: it stands for folders too.
    """

    step: "Step"
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A step, for the architecture named `arch` or, where that is empty, for any.

    `name` is the folder of its entries in the store, and `variant` tells two steps of one name and architecture apart.
    Both functions start programs where the runtime that they are given says, and nowhere else.
    `inputs` returns the values that it reads besides what it `uses`: recipes, versions of tools, digests of sources. It
    is called before any of the used steps is made, so that a user's mistake is told of at once; it raises UserError.
    `make` fills an empty directory with at least the files `outputs`, and raises BuildError, or NotKeptError. `code`
    names the modules of ours that have the work to do (see `code`), `needs` is what of the host it takes.

    `weight` and `memory_mib`, which is what its programs have in memory at most, say what may run beside it.
    """

    name: str
    inputs: Callable[[Runtime], Inputs]
    make: Callable[[Path, Used, Runtime], None]
    code: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    arch: str = ""
    variant: str = ""
    uses: Mapping[str, Use] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    weight: Weight = "cpu"
    memory_mib: int = 256
    success: Literal["built", "passed"] = "built"  # what became of it when it was made
    from_elsewhere: bool = False  # what it is made of may have to be fetched, though it computes

    @property
    def fetches(self) -> bool:
        """Whether it takes something from another machine."""
        return self.from_elsewhere or self.weight == "network"

    @property
    def role(self) -> str:
        """What it is called among the steps of one architecture, such as `kernel` or `check initrd`."""
        return " ".join(word for word in (self.name, self.variant) if word)

    @property
    def title(self) -> str:
        """What it is called among all steps, such as `aarch64 kernel`."""
        return " ".join(word for word in (self.arch, self.role) if word)
