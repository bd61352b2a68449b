"""A guest of one architecture as a tree has it: its recipes, and the steps that a build and its checks lead to.

The steps are those of today's code, whatever the tree's own code is: that is never run.
"""

from dataclasses import dataclass

from guestforge.arch import Arch
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.step import Step
from guestforge.pipeline import Pipeline
from guestforge.project.folder import Project
from guestforge.project.lock import Lock
from guestforge.project.models import Guest, Kernel, Rootfs
from guestforge.project.options import ARTIFACTS, BuildOptions, CheckOptions


@dataclass(frozen=True, slots=True)
class Plan:
    """What `./invoke build` makes and proves of a guest."""

    name: str
    arch: Arch
    project: Project
    guest: Guest
    kernel: Kernel
    rootfs: Rootfs
    lock: Lock | None
    targets: tuple[Step, ...]


def plan(project: Project, name: str, arch: Arch, evaluation: Evaluation) -> Plan:
    """Return the plan of a guest; raises UserError for what is wrong with its recipes."""
    options = BuildOptions(project=project, arches=(arch,), guest=name, jobs=1)
    pipeline = Pipeline(arch, options, evaluation, Jobserver(1))
    steps = pipeline.steps
    checks = (pipeline.check_step(artifact, CheckOptions()) for artifact in ARTIFACTS)
    return Plan(
        name=name,
        arch=arch,
        project=project,
        guest=steps.guest,
        kernel=steps.kernel_recipe,
        rootfs=steps.rootfs,
        lock=project.lock,
        targets=(*steps.published, steps.probe, *checks),
    )
