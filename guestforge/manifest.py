"""output/<arch>/<guest>/: the artifacts, and the manifest that says what they are and what they were made from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guestforge import __version__
from guestforge.store import Entry, atomic_copy, atomic_file, digest_file

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the output directory: its name there, and the file of a store's entry that it is."""

    name: str
    entry: Entry
    file: str


def publish(output: Path, artifacts: tuple[Artifact, ...], steps: tuple[Entry, ...], facts: Mapping[str, Any]) -> None:
    """Fill an output directory from the store, the manifest last; what is right already is not written again."""
    rows = {artifact.name: _place(artifact, output / artifact.name) for artifact in artifacts}
    write_json(output / "manifest.json", manifest(rows, steps, facts))


def manifest(artifacts: Mapping[str, Any], steps: tuple[Entry, ...], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest: nothing in it depends on when, where or how quickly the build ran."""
    return {
        "schema": SCHEMA,
        "guestforge": __version__,
        **facts,
        "artifacts": artifacts,
        "steps": {entry.step: {"key": entry.key, "inputs": entry.inputs} for entry in steps},
    }


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a JSON file whole or not at all, and not when it is there already with this content."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    if not path.is_file() or path.read_text() != text:
        with atomic_file(path, "w") as file:
            file.write(text)


def _place(artifact: Artifact, target: Path) -> dict[str, Any]:
    """Copy an artifact to its place unless the same bytes are there; return its row of the manifest."""
    facts = artifact.entry.files[artifact.file]
    if not target.is_file() or target.stat().st_size != facts.size or digest_file(target) != facts.sha256:
        atomic_copy(artifact.entry.path / artifact.file, target)
    return asdict(facts)
