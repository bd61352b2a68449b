"""What can be made of one guest for one architecture: its steps, and what each uses.

source ---------- kernel ---.--- initrd ---.
agent, packages, overlays ---'--- image ----'--- check
"""

from dataclasses import dataclass
from functools import cache

from guestforge.arch import Arch
from guestforge.core.errors import UserError
from guestforge.core.jobserver import Jobserver
from guestforge.core.step import Step
from guestforge.core.store import Store
from guestforge.image.disk_step import image_step
from guestforge.image.initrd_step import initrd_step
from guestforge.kernel.step import kernel_step
from guestforge.project.bounds import load_guest_for
from guestforge.project.load import Folders, load_kernel, load_rootfs
from guestforge.project.lock import AGAIN, LOCK
from guestforge.project.models import DebianSource, Guest, Kernel, Rootfs
from guestforge.project.options import BuildOptions
from guestforge.rootfs.agent import AGENT, CONFORM, PROBE, STORAGEBENCH, given_step, program_step
from guestforge.rootfs.overlay import overlay_step
from guestforge.rootfs.parts import Parts
from guestforge.sources.linux import source_step, wanted_of
from guestforge.sources.packages import package_step
from guestforge.sources.resolution import Archive, Wanted


@dataclass(frozen=True, slots=True)
class BootSteps:
    """What is booted of a guest, and the programs that are run in guests: no image holds these.

    `own_agent`: the agent in it is ours, and none that a user gave.
    """

    guest: Guest
    kernel: Step
    initrd: Step
    image: Step
    probe: Step
    conform: Step
    storagebench: Step
    own_agent: bool

    @property
    def published(self) -> tuple[Step, ...]:
        """The steps whose files are in the output directory."""
        return (self.kernel, self.initrd, self.image)


@dataclass(frozen=True, slots=True)
class GuestSteps(BootSteps):
    """A guest's recipes and steps."""

    kernel_recipe: Kernel
    rootfs: Rootfs
    parts: Parts

    @property
    def agent(self) -> Step:
        """The step that makes the agent."""
        return self.parts.agent


def guest_programs(store: Store, arch: Arch, jobs: Jobserver) -> dict[str, Step]:
    """Return the steps of the programs that are run in guests, by the fields of `BootSteps`."""
    return {name: program_step(store, arch, name, jobs) for name in (PROBE, CONFORM, STORAGEBENCH)}


def guest_steps(store: Store, arch: Arch, options: BuildOptions, jobs: Jobserver) -> GuestSteps:
    """Return a guest's steps, whose programs share `jobs`. Raises UserError for what is wrong with its recipes."""
    archive = _archive(store, options)
    guest, kernel_recipe, rootfs = recipes_of(arch, options.guest, options.project.recipes)
    source = _source(archive, kernel_recipe.source)
    kernel = kernel_step(store, arch, kernel_recipe, source, jobs=jobs, fragments=options.project.fragments)
    agent = given_step(arch, options.agent) if options.agent else program_step(store, arch, AGENT, jobs)
    packages = (_package(archive, name, rootfs.suite, arch.debian) for name in rootfs.packages)
    overlays = (overlay_step(arch, name, options.project.overlays) for name in rootfs.overlays)
    parts = Parts(agent, tuple(packages), tuple(overlays))
    return GuestSteps(
        guest=guest,
        kernel_recipe=kernel_recipe,
        rootfs=rootfs,
        kernel=kernel,
        parts=parts,
        initrd=initrd_step(arch, rootfs, parts, kernel, guest.initrd),
        image=image_step(arch, rootfs, parts, guest.image),
        own_agent=not options.agent,
        **guest_programs(store, arch, jobs),
    )


def recipes_of(arch: Arch, name: str, recipes: Folders) -> tuple[Guest, Kernel, Rootfs]:
    """Return a guest's recipes. Raises UserError for what is wrong with one of them."""
    guest = load_guest_for(arch, name, recipes)
    return guest, load_kernel(guest.kernel, recipes), load_rootfs(guest.rootfs, recipes)


def packages_of(kernel: Kernel, rootfs: Rootfs, arch: Arch) -> tuple[Wanted, ...]:
    """Return all of Debian's packages that a guest is made of."""
    return (wanted_of(kernel.source), *(Wanted(name, rootfs.suite, arch.debian) for name in rootfs.packages))


def _archive(store: Store, options: BuildOptions) -> Archive:
    lock = options.project.lock
    if lock and options.refresh:
        raise UserError(f"--refresh: the versions are those of {options.project.root / LOCK}", hint=AGAIN)
    return Archive(store, options.mirror, options.refresh, lock)


@cache
def _source(archive: Archive, source: DebianSource) -> Step:
    """Return the step that fetches a kernel's source: the same for all architectures, so that it is made once."""
    return source_step(archive, source)


@cache
def _package(archive: Archive, name: str, suite: str, architecture: str) -> Step:
    return package_step(archive, name, suite, architecture)
