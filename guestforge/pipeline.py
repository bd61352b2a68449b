"""A guest of one architecture: its steps evaluated, its output directory, its proof."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from guestforge.arch import Arch
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.report import FILES
from guestforge.check.step import check_step, emulators
from guestforge.core.files import require_temporary_directory, try_directory
from guestforge.core.graph import Evaluation, needs_of, walk
from guestforge.core.jobserver import Jobserver
from guestforge.core.need import Need
from guestforge.core.progress import say
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Use
from guestforge.core.store import Entry, Store
from guestforge.image.disk_step import IMAGE
from guestforge.image.initrd_step import INITRD
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.kernel.step import CONFIG_COPY, FACTS, KERNEL, SYSTEM_MAP
from guestforge.manifest import MANIFEST, Artifact, manifest, place, write_json
from guestforge.project.bounds import require_processors
from guestforge.project.options import ARTIFACTS, BuildOptions, CheckOptions
from guestforge.project.options import Artifact as Booted
from guestforge.rootfs.agent import CONFORM, PROBE, STORAGEBENCH, go_version
from guestforge.rootfs.flavour import disk_tree
from guestforge.rootfs.tree import Tree
from guestforge.targets import guest_steps
from guestforge.vmm.emulator import Emulator, choose_emulator
from guestforge.vmm.needs import boot_needs


def guest_needs(pipeline: "Pipeline") -> tuple[Need, ...]:
    """Return what of the host it takes to build a guest and to boot it."""
    return (*needs_of(*pipeline.steps.published, pipeline.steps.probe), *boot_needs(pipeline.arch))


class Pipeline:
    """A guest. What is asked of it is made where the store does not have it, once.

    Raises UserError for a wrong recipe, BuildError for a step that fails.
    """

    def __init__(
        self, arch: Arch, options: BuildOptions, evaluation: Evaluation | None = None, jobs: Jobserver | None = None
    ) -> None:
        """`evaluation` and `jobs` are shared by all guests that are made at once; one made alone has its own."""
        self.arch = arch
        self.options = options
        self.evaluation = evaluation or Evaluation(Store())
        self.store = self.evaluation.store
        self.jobs = jobs or Jobserver(options.jobs)
        self.steps = guest_steps(self.store, arch, options, self.jobs)
        self.output = options.output / arch.name / options.guest

    def entry(self, step: Step) -> Entry:
        """Return a step's entry."""
        return self.evaluation.entry(step)

    @property
    def kernel(self) -> Entry:
        """The kernel: `kernel`, `config`, `System.map`, `kernel.json`."""
        return self.entry(self.steps.kernel)

    @property
    def agent(self) -> Entry:
        """The agent: ours, or the one that the user gave."""
        return self.entry(self.steps.agent)

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

    @property
    def disk_tree(self) -> Tree:
        """What the disk image holds."""
        return disk_tree(self.steps.rootfs, *self.steps.parts.of(self.evaluation.used(self.steps.image)))

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
        """Fill the output directory, the manifest last."""
        self.evaluation.judge(*self.steps.published)  # a wrong file is told of before a kernel is compiled for it
        place(self.output, self.artifacts())
        write_json(self.output / MANIFEST, self.manifest())

    def manifest(self) -> dict[str, Any]:
        """Return what the manifest says of the output directory's files, all of which have been made."""
        files = {artifact.name: artifact.entry.files[artifact.file] for artifact in self.artifacts()}
        entries = {step.role: self.entry(step) for step in walk(*self.steps.published)}
        facts = {"arch": self.arch.name, "guest": self.options.guest, "versions": self._versions()}
        return manifest(files, entries, facts)

    def artifacts(self) -> tuple[Artifact, ...]:
        """Return all files that the output directory has, but for its manifest."""
        return (*self.kernel_artifacts(), self.initrd_artifact(), self.image_artifact())

    def _versions(self) -> dict[str, str | None]:
        facts = self._kernel_facts
        return {
            "kernel": facts["release"],
            "kernel_source": f"{facts['source']['package']} {facts['source']['version']}",
            "compiler": facts["compiler"],
            "linker": facts["linker"],
            "go": None if self.options.agent else go_version(),
            "qemu": (emulators(self.arch, self._emulator, self.evaluation.runtime) or (None,))[-1],
        }

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
        config = read_dotconfig(self.kernel.file(CONFIG_COPY))
        require_processors(self.steps.guest, self.options.guest, config, self.options.project.recipes)
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
            own_agent=not self.options.agent,
            digests=self.booted_digests(*booted),
        )

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
                "own_agent": not self.options.agent,
                **steps.guest.boot.model_dump(mode="json"),
            },
            out=self._checked(booted),
        )

    def _checked(self, booted: str) -> Path:
        return self.output / "check" / booted
