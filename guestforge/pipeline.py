"""The whole way, from a recipe to a proven guest. Each step comes from the store where it has been made before.

source --- kernel -----.--- initrd --.
agent ---- rootfs -----'--- image ---'--- check
"""

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

from guestforge import arch as arch_table
from guestforge.arch import Arch
from guestforge.check import live
from guestforge.check.options import CheckOptions, GuestArtifacts
from guestforge.check.report import Artifact as Booted
from guestforge.check.report import Report
from guestforge.check.run import FILES, check_artifact
from guestforge.files import atomic_copy, digest_tree, require_temporary_directory, try_directory
from guestforge.image.build import IMAGE, INITRD, build_image, build_initrd
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.kernel.step import CONFIG_COPY, FACTS, KERNEL, SYSTEM_MAP, build_kernel
from guestforge.manifest import Artifact, place, write_manifest
from guestforge.progress import say
from guestforge.recipe.bounds import load_guest_for, require_processors
from guestforge.recipe.load import load_kernel, load_rootfs
from guestforge.rootfs.agent import (
    AGENT,
    PROBE,
    build_agent,
    build_conform,
    build_probe,
    build_storagebench,
    given_agent,
    go_version,
)
from guestforge.rootfs.flavour import disk_tree, initrd_tree
from guestforge.rootfs.tree import Tree
from guestforge.run import find_tool
from guestforge.sources.packages import TREE, fetch_package
from guestforge.store import Entry, Store
from guestforge.vmm.emulator import Emulator, choose_emulator, installed_emulator
from guestforge.vmm.virtiofs import choose_virtiofs

OUTPUT: Final = Path(__file__).resolve().parents[1] / "output"
CHECK_STEP: Final = "check"
# What a passed check was made with, besides the guest: all of our code that has a part in it
CHECK_CODE: Final = ("agent", "check", "vhost", "vmm")


@dataclass(frozen=True, slots=True)
class Options:
    """What a user chooses for a build besides the architecture."""

    guest: str = "minimal"
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    mirror: str | None = None  # instead of the host's, for all that apt fetches
    refresh: bool = False  # ask the mirror again for the newest version of a source
    agent: Path | None = None  # a binary that takes the place of our agent
    output: Path = OUTPUT


class Pipeline:
    """The steps of one guest for one architecture; each makes those that it needs, once.

    Raises UserError for a wrong recipe, BuildError for a step that fails.
    """

    def __init__(self, arch: Arch, options: Options, store: Store | None = None) -> None:
        self.arch = arch
        self.options = options
        self.store = store or Store()
        self.recipe = load_guest_for(arch, options.guest)
        self.output = options.output / arch.name / options.guest

    # steps

    @cached_property
    def kernel(self) -> Entry:
        """The kernel: `kernel`, `config`, `System.map`, `kernel.json`."""
        chosen = self.options
        return build_kernel(
            self.store,
            self.arch,
            load_kernel(self.recipe.kernel),
            jobs=chosen.jobs,
            mirror=chosen.mirror,
            refresh=chosen.refresh,
        )

    @cached_property
    def agent(self) -> Entry:
        """The agent: ours, or the one that the user gave."""
        given = self.options.agent
        return given_agent(self.store, self.arch, given) if given else build_agent(self.store, self.arch)

    @cached_property
    def probe(self) -> Entry:
        """The program that the checks run in containers; no image holds it."""
        return build_probe(self.store, self.arch)

    @cached_property
    def conform(self) -> Entry:
        """The program that tries what file systems promise; no image holds it."""
        return build_conform(self.store, self.arch)

    @cached_property
    def storagebench(self) -> Entry:
        """The program that measures a guest's file systems; no image holds it."""
        return build_storagebench(self.store, self.arch)

    @cached_property
    def initrd_tree(self) -> Tree:
        """What the initrd holds."""
        return initrd_tree(load_rootfs(self.recipe.rootfs), self.agent.file(AGENT), self._packages)

    @cached_property
    def disk_tree(self) -> Tree:
        """What the disk image holds."""
        return disk_tree(load_rootfs(self.recipe.rootfs), self.agent.file(AGENT), self._packages)

    @cached_property
    def initrd(self) -> Entry:
        """The initrd, compressed with what this kernel unpacks."""
        config = read_dotconfig(self.kernel.file(CONFIG_COPY))
        return build_initrd(self.store, self.arch, self.initrd_tree, config)

    @cached_property
    def image(self) -> Entry:
        """The disk image."""
        return build_image(self.store, self.arch, self.disk_tree, self.recipe.image)

    @property
    def _emulator(self) -> Emulator:
        """The QEMU that emulates the guest."""
        return choose_emulator(self.arch, mirror=self.options.mirror, refresh=self.options.refresh)

    @cached_property
    def _packages(self) -> tuple[Path, ...]:
        rootfs = load_rootfs(self.recipe.rootfs)
        chosen = self.options
        fetched = (
            fetch_package(
                self.store, name, rootfs.suite, self.arch.debian, mirror=chosen.mirror, refresh=chosen.refresh
            )
            for name in rootfs.packages
        )
        return tuple(entry.path / TREE for entry in fetched)

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
        if self.options.agent:
            _ = self.agent  # a wrong file is told of before a kernel is compiled for it
        place(self.output, self._artifacts())
        self.describe()

    def describe(self) -> None:
        """Write the manifest of an output directory that is filled: once more when QEMU has been installed since."""
        files = {artifact.name: artifact.entry.files[artifact.file] for artifact in self._artifacts()}
        steps = (self.kernel, self.agent, self.initrd, self.image)
        facts = {"arch": self.arch.name, "guest": self.options.guest, "versions": self._versions()}
        write_manifest(self.output, files, steps, facts)

    def _artifacts(self) -> tuple[Artifact, ...]:
        return (*self.kernel_artifacts(), self.initrd_artifact(), self.image_artifact())

    def _versions(self) -> dict[str, str | None]:
        facts = json.loads(self.kernel.file(FACTS).read_text())
        return {
            "kernel": facts["release"],
            "kernel_source": f"{facts['source']['package']} {facts['source']['version']}",
            "compiler": facts["compiler"],
            "linker": facts["linker"],
            "go": None if self.options.agent else go_version(),
            "qemu": (self._emulators() or (None,))[-1],
        }

    def _emulators(self) -> list[str]:
        """Return the versions of the host's QEMU and of that which emulates the guest; none where none is installed."""
        if find_tool(self.arch.qemu) is None:
            return []
        return [installed_emulator(self.arch).version, self._emulator.version]

    # proof

    def guest_artifacts(self) -> GuestArtifacts:
        """Return what a check boots: the store's files, which nobody changes meanwhile."""
        boot = self.recipe.boot
        require_processors(self.recipe, self.options.guest, read_dotconfig(self.kernel.file(CONFIG_COPY)))
        return GuestArtifacts(
            arch=self.arch,
            guest=self.options.guest,
            kernel=self.kernel.file(KERNEL),
            kernel_release=json.loads(self.kernel.file(FACTS).read_text())["release"],
            initrd=self.initrd.file(INITRD),
            image=self.image.file(IMAGE),
            probe=self.probe.file(PROBE),
            memory_mib=boot.memory_mib,
            cpus=boot.cpus,
            kernel_args=boot.kernel_args,
            own_agent=not self.options.agent,
        )

    def check(self, booted: Booted, options: CheckOptions, *, again: bool) -> Report | None:
        """Boot an artifact and check it; None where that was done before with the same result of the same inputs.

        Only one of which every check passed counts as done; `again` boots in any case.
        """
        out = self.output / "check" / booted
        inputs = self._check_inputs(booted, options)
        if not again and (entry := self.store.find(CHECK_STEP, inputs)):
            place(out, tuple(Artifact(name, entry, name) for name in FILES))
            say(f"{self.arch.name} {booted}: every check passed before, with the same artifacts, QEMU and checks")
            return None
        report = check_artifact(live.start, self.guest_artifacts(), booted, out, options)
        if report.verdict == "pass" and not report.left_out:
            self.store.get_or_build(CHECK_STEP, inputs, lambda made: _copy_files(out, made))
        return report

    def _check_inputs(self, booted: Booted, options: CheckOptions) -> dict[str, Any]:
        root = self.initrd.files[INITRD] if booted == "initrd" else self.image.files[IMAGE]
        return {
            "arch": self.arch.name,
            "guest": self.options.guest,
            "artifact": booted,
            "kernel": self.kernel.files[KERNEL].sha256,
            "root": root.sha256,
            "probe": self.probe.files[PROBE].sha256,
            "boot": self.recipe.boot.model_dump(mode="json"),
            "own_agent": not self.options.agent,
            "options": {name: value for name, value in asdict(options).items() if name != "verbose"},
            "qemu": self._emulators(),
            "virtio_fs_server": choose_virtiofs(self.arch, options.virtio_fs_server).describe(),
            "code": _check_code(),
        }


def _copy_files(source: Path, target: Path) -> None:
    for name in FILES:
        atomic_copy(source / name, target / name)


@cache
def _check_code() -> str:
    here = Path(__file__).parent
    return digest_tree(Path(arch_table.__file__), *(here / package for package in CHECK_CODE))
