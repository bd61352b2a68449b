"""A guest of one architecture that can be booted: its files, its output directory, its proof."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from guestforge.arch import Arch
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.report import FILES
from guestforge.check.step import check_step
from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import require_temporary_directory, try_directory
from guestforge.core.graph import Evaluation, needs_of
from guestforge.core.jobserver import Jobserver
from guestforge.core.need import Need
from guestforge.core.progress import say
from guestforge.core.runtime import Runtime
from guestforge.core.schedule import Goal, Rules, Schedule
from guestforge.core.step import Step, Use
from guestforge.core.store import Entry
from guestforge.image.disk_step import IMAGE
from guestforge.image.initrd_step import INITRD
from guestforge.kernel.step import CONFIG_COPY, FACTS, KERNEL, SYSTEM_MAP
from guestforge.manifest import Artifact, place
from guestforge.project.options import ARTIFACTS, BuildOptions, CheckOptions
from guestforge.project.options import Artifact as Booted
from guestforge.rootfs.agent import CONFORM, PROBE, STORAGEBENCH
from guestforge.targets import BootSteps
from guestforge.vmm.emulator import Emulator, choose_emulator
from guestforge.vmm.needs import boot_needs


def output_of(arch: Arch, options: BuildOptions) -> Path:
    """Return the output directory of a guest of an architecture."""
    return options.output / arch.name / options.guest


def guest_needs(guest: "Bootable") -> tuple[Need, ...]:
    """Return what of the host it takes to build a guest and to boot it."""
    return (*needs_of(*guest.steps.published, guest.steps.probe), *boot_needs(guest.arch))


def make_guests(*guests: "Bootable", booted: Sequence[Booted] = ARTIFACTS) -> None:
    """Have all that guests are booted of made, side by side, where the store does not have it.

    The guests share an evaluation. Where something can't be made, what and why is told, and it raises BuildError, or
    UserError for a user's mistakes alone.
    """
    evaluation, jobs = guests[0].evaluation, guests[0].jobs
    goals = [Goal(guest.arch.name, guest.booted_steps(*booted)) for guest in guests]
    if all(prospect.state == "reused" for goal in goals for prospect in evaluation.outlook(*goal.steps)):
        return
    schedule = Schedule(evaluation, goals, Rules(jobs))
    schedule.run()
    if errors := schedule.errors:
        kind = UserError if all(isinstance(error, UserError) for error in errors) else BuildError
        raise kind("nothing is booted: not all of it could be built")


class Bootable:
    """A guest. What is asked of it is made where the store does not have it, once.

    Raises UserError for a wrong recipe, BuildError for a step that fails.
    """

    def __init__(
        self, arch: Arch, options: BuildOptions, steps: BootSteps, evaluation: Evaluation, jobs: Jobserver
    ) -> None:
        """`evaluation` and `jobs` may be shared by all guests that are made at once."""
        self.arch = arch
        self.options = options
        self.steps = steps
        self.evaluation = evaluation
        self.store = evaluation.store
        self.jobs = jobs
        self.output = output_of(arch, options)

    def entry(self, step: Step) -> Entry:
        """Return a step's entry."""
        return self.evaluation.entry(step)

    @property
    def kernel(self) -> Entry:
        """The kernel: `kernel`, `config`, `System.map`, `kernel.json`."""
        return self.entry(self.steps.kernel)

    @property
    def initrd(self) -> Entry:
        """The initrd, compressed with what this kernel unpacks."""
        return self.entry(self.steps.initrd)

    @property
    def image(self) -> Entry:
        """The disk image."""
        return self.entry(self.steps.image)

    @property
    def conform(self) -> Path:
        """The program that tries what file systems promise."""
        return self.entry(self.steps.conform).file(CONFORM)

    @property
    def storagebench(self) -> Path:
        """The program that measures file systems."""
        return self.entry(self.steps.storagebench).file(STORAGEBENCH)

    # output

    def try_places(self) -> None:
        """Try where this will write besides the store, before anything is built. Raises UserError."""
        try_directory(self.output, "--output")
        require_temporary_directory()

    def kernel_artifacts(self) -> tuple[Artifact, ...]:
        """Return the kernel's files as the output directory has them."""
        return tuple(Artifact(name, self.kernel, name) for name in (KERNEL, CONFIG_COPY, SYSTEM_MAP))

    def initrd_artifact(self) -> Artifact:
        """Return the initrd as the output directory has it."""
        return Artifact(INITRD, self.initrd, INITRD)

    def image_artifact(self) -> Artifact:
        """Return the disk image as the output directory has it."""
        return Artifact(IMAGE, self.image, IMAGE)

    def publish(self) -> None:
        """Fill the output directory. That of a release that was fetched is full: its files come from there."""

    def artifacts(self) -> tuple[Artifact, ...]:
        """Return all files that the output directory has, but for its manifest."""
        return (*self.kernel_artifacts(), self.initrd_artifact(), self.image_artifact())

    @cached_property
    def _kernel_facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.kernel.file(FACTS).read_text())
        return facts

    def _emulator(self, runtime: Runtime) -> Emulator:
        """Return the QEMU that emulates the guest."""
        return choose_emulator(self.arch, runtime=runtime, mirror=self.options.mirror, refresh=self.options.refresh)

    # proof

    def guest_artifacts(self, *booted: Booted) -> GuestArtifacts:
        """Return what is booted, by default both artifacts: the store's files, which nobody changes meanwhile."""
        booted = booted or ARTIFACTS
        boot = self.steps.guest.boot
        return GuestArtifacts(
            arch=self.arch,
            guest=self.options.guest,
            kernel=self.kernel.file(KERNEL),
            kernel_release=self._kernel_facts["release"],
            initrd=self.initrd.file(INITRD) if "initrd" in booted else None,
            image=self.image.file(IMAGE) if "image" in booted else None,
            probe=self.entry(self.steps.probe).file(PROBE),
            memory_mib=boot.memory_mib,
            cpus=boot.cpus,
            kernel_args=boot.kernel_args,
            own_agent=self.steps.own_agent,
            digests=self.booted_digests(*booted),
        )

    def booted_steps(self, *booted: Booted) -> tuple[Step, ...]:
        """Return the steps of what is booted."""
        roots = {"initrd": self.steps.initrd, "image": self.steps.image}
        return (self.steps.kernel, *(roots[name] for name in booted), self.steps.probe)

    def booted_digests(self, *booted: Booted) -> dict[str, str]:
        """Return the SHA-256 of the kernel and of the artifacts that are booted, by their names in the output."""
        roots = {"initrd": self.initrd_artifact, "image": self.image_artifact}
        files = (self.kernel_artifacts()[0], *(roots[name]() for name in booted))
        return {file.name: file.entry.files[file.file].sha256 for file in files}

    def show_proof(self, step: Step, reused: bool) -> None:
        """Have the output directory show the check that an artifact passed before; one that is made shows itself."""
        if reused and (entry := self.evaluation.find(step)):
            place(self._checked(step.variant), tuple(Artifact(name, entry, name) for name in FILES))
            say(f"{self.arch.name} {step.variant}: passed before, with the same artifacts, QEMU and checks")

    def check_step(self, booted: Booted, options: CheckOptions) -> Step:
        """Return the step that proves an artifact."""
        steps = self.steps
        root = {"initrd": Use(steps.initrd, (INITRD,)), "image": Use(steps.image, (IMAGE,))}[booted]
        return check_step(
            self.arch,
            booted,
            options,
            guest=lambda: self.guest_artifacts(booted),
            uses={"kernel": Use(steps.kernel, (KERNEL, FACTS)), "root": root, "probe": Use(steps.probe, (PROBE,))},
            emulator=self._emulator,
            boot={
                "guest": self.options.guest,
                "own_agent": self.steps.own_agent,
                **steps.guest.boot.model_dump(mode="json"),
            },
            out=self._checked(booted),
        )

    def _checked(self, booted: str) -> Path:
        return self.output / "check" / booted
