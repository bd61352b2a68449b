"""The steps whose files a guest's root file system is made of."""

from dataclasses import dataclass
from pathlib import Path

from guestforge.core.step import Step, Use, Used
from guestforge.sources.kernel_tree import TREE


@dataclass(frozen=True, slots=True)
class Parts:
    """The step that makes the agent, those that unpack packages, and those that read overlays, the last on top."""

    agent: Step
    packages: tuple[Step, ...] = ()
    overlays: tuple[Step, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them."""
        return (self.agent, *self.packages, *self.overlays)

    def uses(self) -> dict[str, Use]:
        """Return what a step that makes a root file system uses of them."""
        folders = {step.role: Use(step) for step in (*self.packages, *self.overlays)}
        return {"agent": Use(self.agent, self.agent.outputs), **folders}

    def of(self, used: Used) -> tuple[Path, tuple[Path, ...], tuple[Path, ...]]:
        """Return the agent's file, the directories of the unpacked packages, and those of the overlays."""
        (name,) = self.agent.outputs
        packages, overlays = (
            tuple(used[step.role].path / TREE for step in steps) for steps in (self.packages, self.overlays)
        )
        return used["agent"].file(name), packages, overlays
