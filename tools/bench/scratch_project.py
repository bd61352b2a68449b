"""A copy of this checkout's project with a cache of its own, for builds that nobody else's store may know of.

Of the user's cache only what was fetched is used: the kernel's source, which packages it came from, Go's modules.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.core.cache import VARIABLE
from guestforge.core.errors import BuildError
from guestforge.core.files import digest_file
from guestforge.core.graph import Evaluation
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.host.packages import SWITCH
from guestforge.kernel.configure import CONFIG, configure
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.kernel.fragment import compose
from guestforge.kernel.make import ENVIRONMENT, Make, build_argv, configure_argv
from guestforge.kernel.packing import with_packing
from guestforge.kernel.step import CONFIG_COPY, KERNEL
from guestforge.kernel.toolchain import identify
from guestforge.pipeline import Pipeline
from guestforge.project.folder import FILE
from guestforge.project.layout import CHECKOUT, FRAGMENTS, INVOKE, RECIPES
from guestforge.project.load import load_guest, load_kernel
from guestforge.project.options import BuildOptions
from guestforge.sources.kernel_tree import kernel_tree
from guestforge.sources.linux import source_step
from guestforge.sources.resolution import Archive
from tools.bench.lanes import Command

BORROWED: Final = ("store/source", "store/package", "resolved", "go/modules")  # of the user's cache


class ScratchProject:
    """The copy below `scratch`; its fragments may be changed."""

    def __init__(self, scratch: Path, user_cache: Path) -> None:
        self.scratch = scratch
        self.log = scratch / "log"
        self.output = scratch / "output"
        self.folder = scratch / "project"
        self.fragments = self.folder / FRAGMENTS.name
        self.store = Store(scratch / "cache")
        for folder in (RECIPES, FRAGMENTS):
            shutil.copytree(folder, self.folder / folder.name)
        shutil.copy(CHECKOUT / FILE, self.folder)
        for name in BORROWED:
            _borrow(user_cache / name, self.store.cache / name)

    def invoke(self, task: str, *arches: Arch, options: Sequence[str] = ()) -> Command:
        """Return a task's command, for the architectures and the default guest."""
        names = ",".join(arch.name for arch in arches)
        places = ("--project", str(self.folder), "--output", str(self.output))
        argv = (str(INVOKE), task, "--arch", names, *places, *options)
        return Command(argv, {VARIABLE: str(self.store.cache), SWITCH: "never"})

    def built(self, arch: Arch) -> Path:
        """Return where the files of an architecture's default guest are."""
        return self.output / arch.name / BuildOptions().guest


class PlainMake:
    """What a person would run by hand, in a directory of its own, to get the kernel of a scratch project."""

    def __init__(self, project: ScratchProject, arch: Arch) -> None:
        self._project = project
        self._arch = arch
        self._recipe = load_kernel(load_guest(BuildOptions().guest).kernel)
        source = source_step(Archive(project.store), self._recipe.source)
        self._tree = kernel_tree(Evaluation(project.store).entry(source))
        self._make = self._in(f"plain-{arch.name}")

    @property
    def release(self) -> str:
        """The release of the kernel that was built."""
        return (self._make.build / "include/config/kernel.release").read_text().strip()

    def configured(self) -> str:
        """Return the configuration that the project's fragments make, as they are just now."""
        make = self._in(f"configured-{self._arch.name}")
        fragments = compose(self._recipe.fragments, self._arch.name, [self._project.fragments])
        requests = with_packing(fragments, self._arch, self._recipe.compression)
        toolchain = identify(self._project.store.cache, self._arch, HOST)
        configure(make, self._recipe.base, requests, toolchain, self._project.log)
        return (make.build / CONFIG).read_text()

    def configure(self, config: str) -> None:
        """Put a configuration where make will find it."""
        (self._make.build / CONFIG).write_text(config)

    def commands(self) -> Sequence[Command]:
        """Return the commands that build the kernel."""
        jobs = BuildOptions().jobs
        argvs = (configure_argv(self._make, "olddefconfig"), [*build_argv(self._make), f"-j{jobs}"])
        return [Command(argv, ENVIRONMENT) for argv in argvs]

    def require_same(self) -> None:
        """Raise BuildError unless the project's kernel and make's are the same, and what they were configured with."""
        built, plain = self._project.built(self._arch), self._make.build
        ours, theirs = read_dotconfig(built / CONFIG_COPY), read_dotconfig(plain / CONFIG)
        if ours != theirs:
            differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            raise BuildError(f"make built another configuration than our step: {', '.join(differing[:10])}")
        if digest_file(built / KERNEL) != digest_file(plain / self._arch.kernel_file(self._recipe.compression)):
            raise BuildError(
                "make built another kernel than our step, from the same source and configuration",
                hint="a build that is not reproducible: docs/kernels.md says what is pinned",
            )

    def _in(self, name: str) -> Make:
        directory = self._project.scratch.resolve() / name
        directory.mkdir(exist_ok=True)
        return Make(self._arch, self._tree.path, directory, self._tree.date, HOST)


def fetch(arch: Arch, user: Store) -> None:
    """Have in the user's store what is fetched, and build what that takes, before a clock runs."""
    evaluation = Evaluation(user)
    steps = Pipeline(arch, BuildOptions(), evaluation).steps
    for before in (steps.kernel.uses["source"].step, steps.agent, steps.probe):
        evaluation.entry(before)


def _borrow(theirs: Path, ours: Path) -> None:
    """Have a directory of the user's cache in ours; one that is not there yet is made, for the tools to fill."""
    theirs.mkdir(parents=True, exist_ok=True)
    ours.parent.mkdir(parents=True, exist_ok=True)
    ours.symlink_to(theirs)
