"""A release as `fetch` laid it out, to be booted: its own files, on the machine that its manifest asks for."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from guestforge.arch import Arch
from guestforge.bootable import Bootable, output_of
from guestforge.core.errors import UserError
from guestforge.core.files import atomic_copy, read_regular
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.progress import say
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Used
from guestforge.kernel.step import FACTS
from guestforge.manifest import MANIFEST, json_text
from guestforge.pipeline import Pipeline
from guestforge.project.bounds import misfits
from guestforge.project.models import Guest
from guestforge.project.options import BuildOptions
from guestforge.release.documents import LIMIT, Manifest, Refused, first_fault, read_manifest
from guestforge.release.names import FILES_OF_A_GUEST
from guestforge.targets import BootSteps, guest_programs

STEP: Final = "fetched"
AGAIN: Final = "fetch the release again, or build a guest of your own there (./invoke build)"


def guest_to_boot(arch: Arch, options: BuildOptions, evaluation: Evaluation, jobs: Jobserver) -> Bootable:
    """Return the guest of the release that lies in the output directory, or, where none does, that of the recipes.

    Raises UserError for one that is not what `fetch` laid out.
    """
    return _find_fetched(arch, options, evaluation, jobs) or Pipeline(arch, options, evaluation, jobs)


@dataclass(frozen=True, slots=True)
class Laid:
    """A release in an output directory: where, its manifest as bytes and as read, and the recipe in that."""

    place: Path
    data: bytes
    manifest: Manifest
    guest: Guest


def laid_out(arch: Arch, options: BuildOptions) -> Laid | None:
    """Return the release in the output directory, of which nothing but the manifest is read; None where none is.

    Raises UserError for a manifest that is not that of this guest, or has no machine.
    """
    place = output_of(arch, options)
    data = _released(place / MANIFEST)
    if data is None:
        return None
    manifest, guest = _read(data, place, arch, options.guest)
    if options.agent:
        raise UserError(f"--agent: the agent of {place} is in it already", hint="give another --output to build to")
    return Laid(place, data, manifest, guest)


def _find_fetched(arch: Arch, options: BuildOptions, evaluation: Evaluation, jobs: Jobserver) -> Bootable | None:
    laid = laid_out(arch, options)
    if laid is None:
        return None
    place, manifest = laid.place, laid.manifest
    say(f"{place}: release {manifest.release.version}, which is booted as it was fetched")
    files = _fetched_step(arch, place, manifest)
    steps = BootSteps(
        guest=laid.guest,
        kernel=files,
        initrd=files,
        image=files,
        own_agent=not manifest.release.agent.given,
        **guest_programs(evaluation.store, arch, jobs),
    )
    return Bootable(arch, options, steps, evaluation, jobs)


def _released(path: Path) -> bytes | None:
    """Return what the manifest of a release says; None for that of a build, and for what is none."""
    data = read_regular(path, LIMIT + 1) if path.is_file() else None
    if data is None:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(found, dict) and "release" in found else None


def _read(data: bytes, place: Path, arch: Arch, name: str) -> tuple[Manifest, Guest]:
    """Return what a manifest says, and the recipe in it. Raises UserError for one that nothing can be booted by."""
    try:
        manifest = read_manifest(data)
        if (manifest.arch, manifest.guest) != (arch.name, name):
            raise Refused(f"{MANIFEST} is that of {manifest.guest} for {manifest.arch}")
        guest = Guest.model_validate_json(json.dumps(manifest.release.recipe.get("guest")))
        for location, why in misfits(guest, arch):
            raise Refused(f"{MANIFEST}: {'.'.join(map(str, location))}: {why}")
    except ValidationError as e:
        raise UserError(f"{place / MANIFEST}: release.recipe.guest: {first_fault(e)}", hint=AGAIN) from e
    except Refused as e:
        raise UserError(f"{place}: {e}", hint=AGAIN) from e
    return manifest, guest


def _fetched_step(arch: Arch, place: Path, manifest: Manifest) -> Step:
    """Return the step that takes a release's files into the store, where nobody changes them while they are booted.

    It raises UserError for a file that is not what the manifest says, each time.
    """
    files = {name: manifest.artifacts[name].file_facts for name in FILES_OF_A_GUEST}
    kernel = {"release": manifest.versions.kernel}

    def require(where: Path) -> None:
        for name, facts in files.items():
            if not facts.are_of(where / name):
                raise UserError(f"{place / name} is not what {MANIFEST} says", hint=AGAIN)

    @cache
    def digests() -> dict[str, str]:
        require(place)
        return {name: facts.sha256 for name, facts in files.items()}

    def inputs(_: Runtime) -> dict[str, Any]:
        return {"files": digests(), "kernel": kernel}

    def make(out: Path, _used: Used, _runtime: Runtime) -> None:
        for name in files:
            atomic_copy(place / name, out / name)
        require(out)
        (out / FACTS).write_text(json_text(kernel))

    return Step(STEP, inputs, make, code=(__name__,), outputs=(*files, FACTS), arch=arch.name)
