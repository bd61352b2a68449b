"""The steps whose files a guest's root file system is made of."""

from dataclasses import dataclass
from pathlib import Path

from guestforge.core.step import Step, Use, Used
from guestforge.sources.kernel_tree import TREE


@dataclass(frozen=True, slots=True)
class Parts:
    """The step that makes the agent, and those that unpack packages."""

    agent: Step
    packages: tuple[Step, ...] = ()

    def uses(self) -> dict[str, Use]:
        """Return what a step that makes a root file system uses of them."""
        packages = {package.role: Use(package) for package in self.packages}
        return {"agent": Use(self.agent, self.agent.outputs), **packages}

    def of(self, used: Used) -> tuple[Path, tuple[Path, ...]]:
        """Return the agent's file and the directories of the unpacked packages, of what `uses` returned."""
        (name,) = self.agent.outputs
        packages = (used[package.role].path / TREE for package in self.packages)
        return used["agent"].file(name), tuple(packages)
