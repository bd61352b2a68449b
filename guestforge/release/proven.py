"""What may be released of a guest: what the store has of it, proven with exactly these files. Nothing is made here."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from guestforge.check.report import FILES, REPORT
from guestforge.core.errors import GuestforgeError
from guestforge.core.graph import walk
from guestforge.core.step import Step
from guestforge.core.store import Entry
from guestforge.manifest import MANIFEST, json_text
from guestforge.pipeline import Pipeline
from guestforge.project.options import ARTIFACTS, CheckOptions
from guestforge.release.archive import Source, Stored
from guestforge.release.components import bill_of
from guestforge.release.documents import LIMIT, Refused, read_manifest, require_passed
from guestforge.release.names import members
from guestforge.rootfs.gomodules import BUILD
from guestforge.sources.linux import STEP as SOURCE

UNBUILT: Final = "is not built of what recipe and sources are now"
UNPROVEN: Final = "has not passed with this build, QEMU and these checks"


@dataclass(frozen=True, slots=True)
class Proven:
    """A guest of one architecture with all files of its archive, by their names there."""

    arch: str
    guest: str
    version: str
    files: Mapping[str, Source]

    @property
    def manifest(self) -> bytes:
        """The archive's manifest."""
        found = self.files[MANIFEST]
        assert isinstance(found, bytes)  # it is made for the archive, and not a file of the store
        return found

    def stored(self, name: str) -> Stored:
        """Return a file of the store."""
        found = self.files[name]
        assert isinstance(found, Stored), name
        return found


class NotProvenError(Exception):
    """A guest may not be released; `problems` has a line for each reason."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def find_proven(pipeline: Pipeline, checks: CheckOptions, version: str) -> Proven:
    """Return what is released of a guest under a version; raises NotProvenError with every reason why nothing is."""
    if problems := tuple(_missing(pipeline, pipeline.steps.published, UNBUILT)):
        raise NotProvenError(problems)
    proofs = {artifact: pipeline.check_step(artifact, checks) for artifact in ARTIFACTS}
    if problems := tuple(_missing(pipeline, proofs.values(), UNPROVEN)):
        raise NotProvenError(problems)
    stored = {
        f"check/{name}/{file}": _stored(pipeline.entry(proofs[name]), file) for name in ARTIFACTS for file in FILES
    }
    stored |= {artifact.name: _stored(artifact.entry, artifact.file) for artifact in pipeline.artifacts()}
    made = [pipeline.entry(step) for step in walk(*pipeline.steps.published, *proofs.values())]
    released = {"version": version, "checks": _checks(stored), "built": _times(made), **_origin(pipeline)}
    manifest = json_text({**pipeline.manifest(), "release": released}).encode()
    if problems := tuple(_disproved(manifest, stored)):
        raise NotProvenError(problems)
    files: dict[str, Source] = {MANIFEST: manifest, **stored}
    ordered = {name: files[name] for name in members()}
    return Proven(pipeline.arch.name, pipeline.options.guest, version, ordered)


def _missing(pipeline: Pipeline, steps: Iterable[Step], what: str) -> Iterator[str]:
    """Yield a line for each step of which the store has no entry, or can't have any."""
    for step in steps:
        try:
            if pipeline.evaluation.find(step) is None:
                yield f"{step.role} {what}"
        except GuestforgeError as e:
            yield f"{step.role}: {e.message}"


def _stored(entry: Entry, name: str) -> Stored:
    return Stored(entry.path / name, entry.files[name])


def _checks(stored: Mapping[str, Stored]) -> dict[str, Any]:
    """Return what an archive's manifest says of the check's files."""
    return {name: source.facts.published() for name, source in stored.items() if name.startswith("check/")}


def _times(entries: Iterable[Entry]) -> dict[str, str] | None:
    """Return when the first step began and the last one was finished; none where that is not known of one."""
    times = [entry.times for entry in entries]
    known = [each for each in times if each]
    if not known or len(known) < len(times):
        return None
    return {"started": min(each.started for each in known), "finished": max(each.finished for each in known)}


def _origin(pipeline: Pipeline) -> dict[str, Any]:
    """Return what an archive's manifest says of the agent's parts, the suites that packages came from, and recipes."""
    steps, entry = pipeline.steps, pipeline.agent
    build = json.loads(entry.file(BUILD).read_text())
    (name,) = steps.agent.outputs
    agent = {"sha256": entry.files[name].sha256, "given": bool(pipeline.options.agent), **build}
    suites = {step.role: steps.kernel_recipe.source.suite for step in walk(steps.kernel) if step.name == SOURCE}
    suites |= {step.role: steps.rootfs.suite for step in steps.parts.packages}
    recipes = {"guest": steps.guest, "kernel": steps.kernel_recipe, "rootfs": steps.rootfs}
    recipe = {kind: model.model_dump(mode="json") for kind, model in recipes.items()}
    return {"agent": agent, "suites": suites, "recipe": recipe}


def _disproved(manifest: bytes, stored: Mapping[str, Stored]) -> Iterator[str]:
    """Yield a line for each report that does not prove these files: they are judged as any consumer judges them."""
    try:
        read = read_manifest(manifest)
        bill_of(read, "")
    except Refused as e:
        yield str(e)
        return
    for name, source in stored.items():
        if name.endswith(f"/{REPORT}"):
            try:
                with source.path.open("rb") as file:
                    require_passed(file.read(LIMIT + 1), name, read)
            except (Refused, OSError) as e:
                yield str(e)
