"""What an output directory says of its guests: reports of checks and manifests, read bounded, whoever wrote them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guestforge.check.report import REPORT
from guestforge.core.errors import UserError
from guestforge.core.files import read_regular
from guestforge.manifest import MANIFEST

LIMIT: Final = 4 * 1024 * 1024  # bytes of a document: a manifest has 5,000, a report 7,000
MOST: Final = 1024  # reports; a matrix of GitHub's has 256 jobs at most, each with two
Text = Annotated[str, Field(max_length=1024 * 1024)]
Seconds = Annotated[float, Field(ge=0, lt=1e9)]  # no NaN, and nothing infinite
D = TypeVar("D", bound="Part")


class Part(BaseModel):
    """A part of a document, of which the other keys are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Check(Part):
    """What became of a check; `detail` is one line, and for a failed one lines of a console or a log may follow."""

    name: Text
    status: Literal["pass", "fail", "skip"]
    seconds: Seconds
    detail: Text
    excused: bool = False


class Phases(Part):
    """Seconds since QEMU was started until the agent answered, and until the end."""

    agent_ready: Seconds | None = None
    done: Seconds | None = None


class Report(Part):
    """A report.json."""

    arch: Text
    guest: Text
    artifact: Text
    accelerator: Text
    verdict: Literal["pass", "fail"]
    checks: Annotated[tuple[Check, ...], Field(max_length=1000)]
    phases: Phases


class Facts(Part):
    """What a manifest says of a file."""

    size: Annotated[int, Field(ge=0, lt=2**63)]


class Manifest(Part):
    """A manifest.json."""

    artifacts: Annotated[dict[Text, Facts], Field(max_length=100)]


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest of one architecture; `sizes` are the bytes of its files, none where it was not built to its end."""

    arch: str
    name: str
    sizes: tuple[tuple[str, int], ...]
    reports: tuple[Report, ...]


def read_guests(output: Path) -> tuple[Guest, ...]:
    """Return what an output directory has, guest by guest; raises UserError for a document that is not what it says."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(output.glob(f"*/*/{MANIFEST}")):
        folders.setdefault(path.parent, [])
    for path in sorted(output.glob(f"*/*/check/*/{REPORT}")):
        folders.setdefault(path.parents[2], []).append(path)
    if sum(map(len, folders.values())) > MOST:
        raise UserError(f"{output} has more than {MOST} reports")
    return tuple(_guest(folder, reports) for folder, reports in sorted(folders.items()))


def _guest(folder: Path, reports: list[Path]) -> Guest:
    artifacts = _read(Manifest, folder / MANIFEST).artifacts if (folder / MANIFEST).exists() else {}
    sizes = tuple(sorted((name, facts.size) for name, facts in artifacts.items()))
    return Guest(folder.parent.name, folder.name, sizes, tuple(_read(Report, path) for path in reports))


def _read(model: type[D], path: Path) -> D:
    """Return the document that a file is."""
    try:
        data = read_regular(path, LIMIT + 1)
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}") from e
    if data is None:
        raise UserError(f"{path}: this is no file")
    if len(data) > LIMIT:
        raise UserError(f"{path} is larger than {LIMIT} bytes")
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise UserError(f"{path}: {where}: {first['msg']}", hint="build and check the guest again") from e
