"""output/<arch>/<guest>/: the artifacts, and the manifest that says what they are and what they were made from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestforge import __version__
from guestforge.core.files import atomic_copy, atomic_file, disk_errors
from guestforge.core.store import Entry, FileFacts

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the output directory: its name there, and the file of a store's entry that it is."""

    name: str
    entry: Entry
    file: str


def place(output: Path, artifacts: tuple[Artifact, ...]) -> dict[str, FileFacts]:
    """Copy artifacts from the store to an output directory; return the facts of each by its name.

    Files that already match are left alone. A manifest that would become wrong is deleted before any file changes.
    """
    with disk_errors(output, "give --output"):
        changed = [artifact for artifact in artifacts if not _facts(artifact).are_of(output / artifact.name)]
        if changed:
            (output / MANIFEST).unlink(missing_ok=True)
        for artifact in changed:
            atomic_copy(artifact.entry.file(artifact.file), output / artifact.name)
    return {artifact.name: _facts(artifact) for artifact in artifacts}


def manifest(
    artifacts: Mapping[str, FileFacts], steps: Mapping[str, Entry], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest: nothing in it depends on when, where or how quickly the build ran.

    `steps` are the entries of all steps that had a part in it, by the steps' names.
    """
    return {
        "schema": SCHEMA,
        "guestforge": __version__,
        **facts,
        "artifacts": {name: row.published() for name, row in artifacts.items()},
        "steps": {
            name: {"key": entry.key, "runtime": entry.runtime, "inputs": entry.inputs} for name, entry in steps.items()
        },
    }


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a JSON file whole or not at all, and not when it is there already with this content."""
    text = json_text(value)
    with disk_errors(path.parent, "give --output"):
        if not path.is_file() or path.read_text(errors="replace") != text:
            with atomic_file(path, "w") as file:
                file.write(text)


def json_text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a value as all our files for others have it."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _facts(artifact: Artifact) -> FileFacts:
    return artifact.entry.files[artifact.file]
