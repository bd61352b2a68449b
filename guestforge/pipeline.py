"""A guest that is built of its recipes: its steps evaluated, its output directory filled."""

from typing import Any

from guestforge.arch import Arch
from guestforge.bootable import Bootable
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.step import emulators
from guestforge.core.graph import Evaluation, walk
from guestforge.core.jobserver import Jobserver
from guestforge.core.store import Entry, Store
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.kernel.step import CONFIG_COPY
from guestforge.manifest import MANIFEST, manifest, place, write_json
from guestforge.project.bounds import require_processors
from guestforge.project.options import Artifact as Booted
from guestforge.project.options import BuildOptions
from guestforge.rootfs.agent import go_version
from guestforge.rootfs.flavour import disk_tree
from guestforge.rootfs.tree import Tree
from guestforge.targets import GuestSteps, guest_steps


class Pipeline(Bootable):
    """A guest of recipes."""

    steps: GuestSteps

    def __init__(
        self, arch: Arch, options: BuildOptions, evaluation: Evaluation | None = None, jobs: Jobserver | None = None
    ) -> None:
        """`evaluation` and `jobs` are shared by all guests that are made at once; one made alone has its own."""
        evaluation = evaluation or Evaluation(Store())
        jobs = jobs or Jobserver(options.jobs)
        super().__init__(arch, options, guest_steps(evaluation.store, arch, options, jobs), evaluation, jobs)

    @property
    def agent(self) -> Entry:
        """The agent: ours, or the one that the user gave."""
        return self.entry(self.steps.agent)

    @property
    def disk_tree(self) -> Tree:
        """What the disk image holds."""
        return disk_tree(self.steps.rootfs, *self.steps.parts.of(self.evaluation.used(self.steps.image)))

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

    def guest_artifacts(self, *booted: Booted) -> GuestArtifacts:
        """Return what is booted, as a guest is that its kernel has room for; raises UserError for one that is not."""
        config = read_dotconfig(self.kernel.file(CONFIG_COPY))
        require_processors(self.steps.guest, self.options.guest, config, self.options.project.recipes)
        return super().guest_artifacts(*booted)

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
