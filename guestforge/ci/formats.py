"""A matrix in the form that a CI system takes. All are JSON, which is YAML too."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from guestforge.ci.matrix import Entry, Matrix
from guestforge.core.errors import UserError
from guestforge.project.options import MatrixFormat

# "A matrix will generate a maximum of 256 jobs per workflow run":
# https://docs.github.com/en/actions/how-tos/write-workflows/choose-what-workflows-do/run-job-variations
GITHUB_MOST: Final = 256
GITHUB_RUNNER: Final = ("ubuntu-latest",)
GITLAB_FILE: Final = ".gitlab/guest.yml"  # the user's, with what each job does
GITLAB_JOB: Final = ".guest"  # the hidden job in it
NOTHING: Final = "nothing to build"


def render(matrix: Matrix, format_: MatrixFormat) -> str:
    """Return a matrix's text, without a line's end; raises UserError for one that the system does not take."""
    return _RENDERERS[format_](matrix)


def _json(matrix: Matrix) -> str:
    """Return all that is known, of what need not be built too."""
    since = matrix.since
    entries = [
        {
            "guest": entry.guest,
            "arch": entry.arch,
            "runner": entry.runner,
            "build": entry.build,
            "changed": entry.changed,
            "key": entry.key,
            "steps": entry.steps,
        }
        for entry in matrix.entries
    ]
    known = {"since": {"revision": since.name, "commit": since.commit} if since else None, "entries": entries}
    return json.dumps(known, indent=2)


def _github(matrix: Matrix) -> str:
    """Return one line for `strategy.matrix`: each entry of `include` is a job."""
    if len(matrix.built) > GITHUB_MOST:
        hint = "ask for some of them: --guest, --arch"
        raise UserError(f"GitHub takes {GITHUB_MOST} jobs a matrix, and these are {len(matrix.built)}", hint=hint)
    jobs = [
        {
            "guest": entry.guest,
            "arch": entry.arch,
            "runner": entry.runner or GITHUB_RUNNER,
            "key": entry.key,
            "steps": entry.steps,
        }
        for entry in matrix.built
    ]
    return json.dumps({"include": jobs}, separators=(",", ":"))


def _gitlab(matrix: Matrix) -> str:
    """Return a child pipeline, which must have a job: https://docs.gitlab.com/ci/pipelines/downstream_pipelines/."""
    if not matrix.built:
        idle = {"variables": {"GIT_STRATEGY": "none"}, "script": [f"echo '{NOTHING}'"]}
        return json.dumps({NOTHING: idle}, indent=2)
    jobs = {f"{entry.guest} {entry.arch}": _gitlab_job(entry) for entry in matrix.built}
    return json.dumps({"include": [{"local": GITLAB_FILE}], **jobs}, indent=2)


def _gitlab_job(entry: Entry) -> Mapping[str, Any]:
    variables = {"GUEST": entry.guest, "ARCH": entry.arch, "KEY": entry.key}
    steps = {f"KEY_{role.upper().translate(_TO_VARIABLE)}": key for role, key in entry.steps.items()}
    tags = {"tags": entry.runner} if entry.runner else {}
    return {"extends": GITLAB_JOB, "variables": variables | steps, **tags}


_TO_VARIABLE: Final = str.maketrans(" .+-", "____")
_RENDERERS: Final[Mapping[MatrixFormat, Callable[[Matrix], str]]] = {
    "json": _json,
    "github": _github,
    "gitlab": _gitlab,
}
